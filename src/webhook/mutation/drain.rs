//! The order of the end: callers are sent elsewhere first, then the model server ends, then the sidecar.
//!
//! Kubernetes runs the `preStop` hooks of all containers at the same time, and tells a native sidecar to end only when the
//! others have. So the model server sleeps while the sidecar drains.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Plan, container_mut, containers, object_mut};
use crate::webhook::settings::{Kubernetes, Settings};

/// By how much the model server outlives the sidecar's drain.
const MARGIN: Duration = Duration::from_secs(5);

/// What Kubernetes grants a pod that names nothing.
const DEFAULT_GRACE: i64 = 30;

/// Lets the model server outlive the drain, and the pod outlive both.
pub(super) fn extend(patched: &mut Value, pod: &Pod, plan: &mut Plan, settings: &Settings) {
    let drain = settings.sidecar.drain;
    let sleep = drain + MARGIN;
    let hook = containers(pod)[plan.server].lifecycle.as_ref().and_then(|hooks| hooks.pre_stop.as_ref());
    let own = hook
        .and_then(|hook| hook.sleep.as_ref())
        .map(|sleep| Duration::from_secs(sleep.seconds.max(0) as u64));
    let name = &plan.name;
    let mut before_end = own.unwrap_or_default().max(sleep);
    if let (Some(_), None) = (hook, own) {
        plan.warnings.push(format!(
            "container {name} has a preStop hook of its own; see that it lasts at least {} s, or calls that arrive while Refrain drains may \
             find the model server gone",
            sleep.as_secs()
        ));
    } else if settings.kubernetes >= Kubernetes::SLEEP {
        let hooks = object_mut(container_mut(patched, plan.server), "lifecycle");
        object_mut(hooks, "preStop")["sleep"] = json!({"seconds": before_end.as_secs()});
    } else {
        before_end = drain;
        plan.warnings.push(format!(
            "container {name}: Kubernetes {} has no preStop sleep, so calls that arrive while the pod ends may find the model server gone; a \
             preStop hook in it that lasts {} s prevents that",
            settings.kubernetes,
            sleep.as_secs()
        ));
    }
    let needed = before_end.as_secs() + plan.exit_seconds + drain.as_secs();
    let given = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    if given.unwrap_or(DEFAULT_GRACE) < needed as i64 {
        patched["spec"]["terminationGracePeriodSeconds"] = json!(needed);
    }
}

//! What a change of configuration replaces while calls go on: a call keeps what was live when it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::models::Models;
use super::quota::Quota;
use super::route::Routes;
use super::upstream::Upstream;
use crate::config::{Config, Limits};
use crate::session::{CallerRules, Callers};

/// The settings and what is made of them.
pub(super) struct Live {
    /// The checked settings.
    pub(super) config: Arc<Config>,
    /// Which call is which.
    pub(super) routes: Routes,
    /// Who is who.
    pub(super) callers: Callers,
    /// What is known of the upstream's models.
    pub(super) models: Models,
    /// Bytes of requests in flight.
    pub(super) bytes: Quota,
    /// Calls held or waiting for another's answer.
    pub(super) held: Quota,
    /// Calls whose fresh answer is dropped.
    pub(super) shadows: Quota,
    warned: AtomicBool,
}

/// Random keys of this process; they outlive every configuration, so that a change of settings forgets nobody.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    /// Of the pictures' digests.
    pub(super) pictures: [u8; 32],
    /// Of the callers' digests.
    pub(super) callers: [u8; 32],
}

impl Live {
    /// Makes `config` live; `locally` as in [`CallerRules::listening_locally`].
    pub(super) fn new(config: Config, upstream: Arc<Upstream>, keys: Keys, locally: bool) -> Self {
        let config = Arc::new(config);
        let models = Models::new(upstream, Arc::clone(&config), keys.pictures);
        let callers = Callers::new(caller_rules(&config, locally), keys.callers);
        let quotas = Quotas::new(&config.limits);
        Self::of(config, models, callers, quotas)
    }

    /// Makes `config` live after `self`: what was learned of models and callers stays, and so do caps in use.
    pub(super) fn succeeded_by(&self, config: Config, locally: bool) -> Self {
        let config = Arc::new(config);
        let models = self.models.under(Arc::clone(&config));
        let callers = self.callers.under(caller_rules(&config, locally));
        let quotas = if config.limits == self.config.limits {
            Quotas { bytes: self.bytes.clone(), held: self.held.clone(), shadows: self.shadows.clone() }
        } else {
            Quotas::new(&config.limits)
        };
        Self::of(config, models, callers, quotas)
    }

    fn of(config: Arc<Config>, models: Models, callers: Callers, quotas: Quotas) -> Self {
        let Quotas { bytes, held, shadows } = quotas;
        let routes = Routes::new(config.rpc_allow.iter().cloned());
        Self { config, routes, callers, models, bytes, held, shadows, warned: AtomicBool::new(false) }
    }

    /// Whether calls came that may be many callers'.
    pub(super) fn shares_callers(&self) -> bool {
        self.warned.load(Ordering::Relaxed)
    }

    /// Says once that some calls are not protected, for want of an identity.
    pub(super) fn warn_of_shared_callers(&self) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "calls that may come from many callers through one address are only observed: set caller.metadata with \
                 caller.trusted_peers, or use client certificates"
            );
        }
    }
}

/// The caps on what is in flight.
struct Quotas {
    bytes: Quota,
    held: Quota,
    shadows: Quota,
}

impl Quotas {
    fn new(limits: &Limits) -> Self {
        Self {
            bytes: Quota::new(limits.bytes_in_flight, limits.bytes_in_flight_per_caller),
            held: Quota::new(limits.held, limits.held_per_caller),
            shadows: Quota::new(limits.shadows, limits.shadows_per_caller),
        }
    }
}

fn caller_rules(config: &Config, locally: bool) -> CallerRules {
    CallerRules {
        trusted_peers: config.caller.trusted_peers.clone(),
        trusted_certificates: config.caller.trusted_certificates.clone(),
        by_metadata: config.caller.metadata.is_some(),
        by_authorization: config.caller.authorization_verified,
        require: config.caller.require,
        listening_locally: locally,
    }
}

//! Which traces are kept, as `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say.

use opentelemetry::trace::{Link, SpanContext, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue, TraceId};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};

/// A sampler of the specification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sampling {
    /// What the caller's trace does counts first.
    by_parent: bool,
    /// The share of traces that are kept, 0..=1.
    share: f64,
}

impl Sampling {
    /// Every trace, unless the caller's trace says that it is not kept.
    pub(super) const ALL: Self = Self { by_parent: true, share: 1.0 };

    /// What the variables' values say; nothing where they are none of the specification's.
    pub(super) fn named(sampler: &str, argument: Option<&str>) -> Option<Self> {
        let (by_parent, name) = match sampler.strip_prefix("parentbased_") {
            Some(name) => (true, name),
            None => (false, sampler),
        };
        let share = match name {
            "always_on" => 1.0,
            "always_off" => 0.0,
            // The default of a ratio is all.
            "traceidratio" => match argument {
                None => 1.0,
                Some(argument) => argument.parse().ok().filter(|share| (0.0..=1.0).contains(share))?,
            },
            _ => return None,
        };
        Some(Self { by_parent, share })
    }

    /// This share of the traces that begin here.
    pub(super) fn share(share: f64) -> Self {
        Self { by_parent: true, share }
    }

    /// Whether the trace is kept; every process that keeps this share or more decides alike.
    pub(super) fn samples(self, trace: TraceId, parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.by_parent => sampled,
            _ => {
                let mut low = [0; 8];
                low.copy_from_slice(&trace.to_bytes()[8..]);
                let place = (u64::from_be_bytes(low) >> 1) as f64 / (1u64 << 63) as f64;
                place < self.share
            }
        }
    }
}

/// What the SDK does with a span when it begins.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    pub(super) sampling: Sampling,
    /// Calls that are not sampled are recorded all the same: those that turn out to be short-circuited are kept.
    pub(super) keeps_short_circuits: bool,
}

impl ShouldSample for Sampler {
    fn should_sample(
        &self,
        around: Option<&Context>,
        trace: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let parent = around.map(|around| around.span().span_context().clone()).filter(SpanContext::is_valid);
        let is_sampled = match &parent {
            // A part of a call does as the call does.
            Some(call) if !call.is_remote() => call.is_sampled(),
            parent => self.sampling.samples(trace, parent.as_ref().map(SpanContext::is_sampled)),
        };
        let decision = match (is_sampled, self.keeps_short_circuits) {
            (true, _) => SamplingDecision::RecordAndSample,
            (false, true) => SamplingDecision::RecordOnly,
            (false, false) => SamplingDecision::Drop,
        };
        let trace_state = parent.map(|parent| parent.trace_state().clone()).unwrap_or_default();
        SamplingResult { decision, attributes: Vec::new(), trace_state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

    #[test]
    fn the_specifications_samplers_are_known_by_name() {
        for (name, argument, expected) in [
            ("always_on", None, Some((false, 1.0))),
            ("always_off", None, Some((false, 0.0))),
            ("traceidratio", Some("0.25"), Some((false, 0.25))),
            ("parentbased_always_on", None, Some((true, 1.0))),
            ("parentbased_always_off", None, Some((true, 0.0))),
            ("parentbased_traceidratio", None, Some((true, 1.0))),
            ("parentbased_traceidratio", Some("2"), None),
            ("traceidratio", Some("NaN"), None),
            ("xray", None, None),
        ] {
            let expected = expected.map(|(by_parent, share)| Sampling { by_parent, share });
            assert_eq!(Sampling::named(name, argument), expected, "{name}");
        }
    }

    #[test]
    fn a_share_keeps_about_that_share_and_a_parent_decides_where_it_may() {
        let ids = RandomIdGenerator::default();
        let tenth = Sampling::share(0.1);
        let kept = (0..10_000).filter(|_| tenth.samples(ids.new_trace_id(), None)).count();
        assert!((800..1200).contains(&kept), "{kept}");
        let trace = ids.new_trace_id();
        assert!(
            Sampling::share(0.0).samples(trace, Some(true)) && !Sampling::ALL.samples(trace, Some(false))
        );
        assert!(!Sampling::share(0.0).samples(trace, None) && Sampling::ALL.samples(trace, None));
        let always = Sampling::named("always_on", None).unwrap();
        assert!(always.samples(trace, Some(false)), "what does not go by the parent does not ask it");
    }
}

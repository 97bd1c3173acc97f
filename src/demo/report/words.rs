//! What the counts do not say by themselves, in sentences; printed, and on the page too.

use crate::demo::duel::{Duel, Trial};
use crate::demo::latency::Latency;
use crate::demo::server::COMPUTE;

/// A sentence for each way in which an attack on the photographs came out otherwise than its counts let one think.
pub(in crate::demo) fn in_words(duel: &Duel) -> Vec<String> {
    let by = |what: &dyn Fn(&&Trial) -> bool| {
        duel.trials.iter().filter(what).map(|trial| trial.photo).collect::<Vec<_>>().join(", ")
    };
    // The same first candidate is drawn on both sides, so what it does to the bare model is known.
    let drawn_first = |trial: &&Trial| {
        trial.transfers() && trial.bare.best == trial.refrain.best && trial.refrain.fooled.is_none()
    };
    let lucky = by(&drawn_first);
    let found = by(&|trial| trial.transfers() && !drawn_first(trial));
    let told = by(&|trial| trial.refrain.fooled.is_some() && !trial.transfers());
    let told_of = [
        (
            lucky,
            "the very first candidate fools the bare model, without any search. The attacker holds it for want of a better \
             one and does not know; no defence against searching stops that.",
        ),
        (found, "a picture that was found through Refrain fools the bare model."),
        (
            told,
            "the attacker was given another label, but its picture does not fool the bare model: an earlier picture's \
             answer was given for it.",
        ),
    ];
    let name = duel.attack.name();
    told_of
        .into_iter()
        .filter(|(photos, _)| !photos.is_empty())
        .map(|(photos, what)| format!("{name}, {photos}: {what}"))
        .collect()
}

/// What was timed.
pub(in crate::demo) fn timed(latency: &Latency) -> String {
    format!(
        "The network alone takes a fraction of a millisecond. For this part the model server takes its time, as a classifier \
         worth protecting does: {} ms at the median, log-normal with spread {}, drawn from the seed. {} pairs by callers that \
         never asked before: a photo (forwarded), then a copy with one pixel changed (held).",
        COMPUTE.0.as_millis(),
        COMPUTE.1,
        latency.forwarded.len(),
    )
}

/// Whether a test tells the two distributions apart.
pub(in crate::demo) fn apart(latency: &Latency) -> String {
    let (distance, critical) = (latency.distance(), latency.critical());
    let verdict = if distance <= critical {
        "So this test does not tell them apart. It is one small test on one machine and no proof: who asks more sees more."
    } else {
        "So this test tells them apart in this run. A busy machine does that, for a hold is as exact as the machine's timers; \
         and one run in twenty does it by chance. Run it again on an idle machine."
    };
    format!(
        "At most {distance:.3} lies between the two distributions (Kolmogorov-Smirnov); between two samples of one and the \
         same it is more than {critical:.3} once in twenty times. {verdict}"
    )
}

//! A row that was forwarded: its likeness, its view, and its answer when that has come.

use super::flight::{Follow, PENDING_BYTES, Pending};
use super::{Answer, Origin, View};
use crate::judgment::{Candidate, Likeness, Outline, Standing};
use tokio::time::Instant;

/// One anchor of a session.
pub(super) struct Anchor {
    /// Its number, never given twice in the life of a store.
    pub(super) id: u64,
    pub(super) likeness: Likeness,
    /// What it was asked beside the pixels; the version becomes the served one when the answer comes.
    pub(super) view: View,
    pub(super) forwarded: Instant,
    /// Rows that it answered, exact repeats included. Of an anchor that has no answer: the exact repeats that were
    /// forwarded without an anchor of their own.
    pub(super) hits: u64,
    /// What the operator knows its call by.
    pub(super) origin: Option<Origin>,
    pub(super) kept: Kept,
}

/// What an anchor can give to a similar row.
pub(super) enum Kept {
    /// The answer that a lead will bring.
    Pending(Pending),
    /// The answer.
    Answered(Answer),
    /// None, ever: its call's outputs could not be cut into rows, or the answer could not be kept. It is there to be
    /// recognised.
    Likeness,
}

impl Anchor {
    /// How this anchor stands to a row of `view`.
    pub(super) fn standing(&self, view: &View) -> Standing {
        if matches!(self.kept, Kept::Likeness) || !self.shares_model(view) {
            self.standing_elsewhere()
        } else if self.view.inputs == view.inputs {
            Standing::SameView
        } else {
            Standing::OtherInputs(self.view.inputs)
        }
    }

    /// How this anchor stands to a row that its answer cannot serve, whatever the view. One that will never have an
    /// answer is much like another view's: a near-copy of it is suspect, nothing can be replayed from it, and exact
    /// repeats are innocent until there were too many.
    pub(super) fn standing_elsewhere(&self) -> Standing {
        match self.kept {
            Kept::Likeness => Standing::Unanswered(self.hits),
            Kept::Pending(_) | Kept::Answered(_) => Standing::OtherView,
        }
    }

    /// Whether only the other inputs can tell this anchor's view from `view`.
    pub(super) fn shares_model(&self, view: &View) -> bool {
        self.view.form == view.form && self.view.version == view.version && self.view.model == view.model
    }

    /// The right to its answer; none where it has no answer to give.
    pub(super) fn follow(&self) -> Option<Follow> {
        match &self.kept {
            Kept::Pending(pending) => Some(Follow::waiting(pending.clone(), self.likeness.clone())),
            Kept::Answered(answer) => Some(Follow::known(answer.clone(), self.likeness.clone())),
            Kept::Likeness => None,
        }
    }

    /// Whether the answer is pending and the lead that was to bring it is no more.
    pub(super) fn is_orphan(&self) -> bool {
        matches!(&self.kept, Kept::Pending(pending) if pending.has_changed().is_err() && pending.borrow().is_none())
    }

    /// Bytes that this anchor holds, itself included. The view's names are counted as if nobody else held them, so
    /// that a caller who sends a long name pays for it.
    pub(super) fn footprint(&self) -> usize {
        let kept = match &self.kept {
            Kept::Pending(_) => PENDING_BYTES,
            Kept::Answered(answer) => answer.bytes.len(),
            Kept::Likeness => 0,
        };
        // The likeness counts itself, so only its heap is added to the anchor's own size.
        size_of::<Self>() + self.likeness.footprint() - size_of::<Likeness>()
            + shared_text(&self.view.model)
            + shared_text(&self.view.version)
            + kept
    }
}

/// An anchor as a session keeps it. What is looked at of every anchor for every row stands side by side, and the rest of each in a
/// box: so most rest where they are, and to move one or to drop it moves little.
pub(super) struct Held {
    pub(super) id: u64,
    pub(super) forwarded: Instant,
    pub(super) outline: Outline,
    pub(super) anchor: Box<Anchor>,
}

impl Held {
    pub(super) fn new(anchor: Anchor) -> Self {
        Self {
            id: anchor.id,
            forwarded: anchor.forwarded,
            outline: anchor.likeness.outline().clone(),
            anchor: Box::new(anchor),
        }
    }
}

/// An anchor beside a row of this view.
pub(super) struct Beside<'a> {
    pub(super) outline: &'a Outline,
    pub(super) anchor: &'a Anchor,
    pub(super) view: &'a View,
}

impl<'a> Candidate<'a> for Beside<'a> {
    #[inline]
    fn likeness(&self) -> &'a Likeness {
        &self.anchor.likeness
    }

    #[inline]
    fn outline(&self) -> &'a Outline {
        self.outline
    }

    #[inline]
    fn standing(&self) -> Standing {
        self.anchor.standing(self.view)
    }
}

/// Bytes behind an `Arc<str>`: its text and its two counts.
pub(super) fn shared_text(text: &str) -> usize {
    text.len() + 2 * size_of::<usize>()
}

//! Is this picture a near-copy of one that its caller asked about before?
//!
//! Pure: no clock, no input or output, nothing asynchronous, no logging, and nothing here can fail once a picture
//! is an [`Image`]. The story, in the order in which a row meets it:
//!
//! 1. `image`: what a picture is, checked once.
//! 2. `thumbnail`: at most 32 x 32 of it, by `area`, the one reduction, exact and in integers.
//! 3. `fingerprint`, `pixels`, `cells`, `relief`, `palette`: five distances. The hash sees the picture's large shapes and
//!    misses dense noise on small pictures; the positions see a few changed pixels; the cells see what is changed
//!    everywhere by little; the relief sees what is left of a picture that was faded or drowned in noise; the palette sees
//!    the same picture mirrored, shifted or turned. Each is blind where another sees.
//! 4. `likeness`: all of these together, with a digest of the exact pixels: what is kept of a row.
//! 5. `rules`: how near is near.
//! 6. `outline`: the short way to no, which a row and nearly all anchors go.
//! 7. `radius`: numbers become yes or no: is an anchor near, may its answer serve?
//! 8. `ruling`: forward the row, replay an earlier answer, or refuse it, and why; by `paper` or by `hardened`.
//!
//! The method is that of Liu et al., "Defend Against Adversarial Samples by Using Perceptual Hash", CMC 62(3),
//! 2020: [`Profile::Paper`] to the letter, [`Profile::Hardened`] with its holes closed.

#![allow(
    clippy::inline_always,
    reason = "loops over pixels are compiled for each kind of vector unit, which they are only where they are inlined"
)]

use std::fmt;

mod image;
mod area;
mod thumbnail;
mod fingerprint;
mod pixels;
mod cells;
mod relief;
mod palette;
mod outline;
mod likeness;
mod rules;
mod radius;
mod ruling;
mod paper;
mod hardened;
#[cfg(test)]
mod made;

pub use fingerprint::{FINGERPRINT_VERSION, Fingerprint};
pub use image::{Image, ImageError, MAX_SIDE};
pub use likeness::{Digest, Ghost, Likeness};
pub use outline::Outline;
pub use rules::{Anchor, OnSuspected, Profile, Rules};
pub use ruling::{Candidate, Distances, Evidence, Judgment, Reason, Ruling, Standing};
pub use thumbnail::Thumbnail;

/// Makes likenesses and rules on them: the rules, a key, and the transforms planned once.
///
/// * In: [`Rules`] and 32 random bytes that stay within the deployment.
/// * Out: a judge that may be shared between threads. Likenesses and ghosts of one judge mean nothing to a judge of
///   other rules or another key.
/// * Blind to: everything but the pictures it is shown; it remembers nothing.
/// * Costs: some microseconds to make; a clone shares the transforms.
/// * From: the judgment layer of the paper's section 3.3; the key is ours.
#[derive(Clone)]
pub struct Judge {
    rules: Rules,
    key: [u8; 32],
    transforms: fingerprint::Transforms,
}

impl Judge {
    /// Plans the transforms for `rules`; `key` keys the digest of exact pixels.
    pub fn new(rules: Rules, key: [u8; 32]) -> Self {
        Self { rules, key, transforms: fingerprint::Transforms::plan() }
    }

    /// The rules it judges by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Makes the likeness of a picture.
    ///
    /// * In: an [`Image`] of any size.
    /// * Out: what is kept of it.
    /// * Blind to: see [`Thumbnail`] and [`Fingerprint`].
    /// * Costs: two passes over the pixels, one to reduce and one to digest; microseconds for 32 x 32, tens of them
    ///   for 224 x 224, milliseconds for photographs of a camera, which belong on a thread of their own
    ///   (`benches/judgment.rs`, `likeness`).
    /// * From: `calc_pHash` of the paper's Algorithm 1, and what it keeps of `Image 1`.
    pub fn likeness(&self, image: &Image<'_>) -> Likeness {
        Likeness::of(image, &self.rules, &self.key, &self.transforms)
    }
}

/// Names the rules and keeps the key to itself.
impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_shared_between_threads() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<Judge>();
        shared::<Likeness>();
        shared::<Ghost>();
    }

    #[test]
    fn a_judge_never_prints_its_key() {
        let judge = Judge::new(Rules::hardened(), [0xAB; 32]);
        let printed = format!("{judge:?}").to_lowercase();
        assert!(!printed.contains("171") && !printed.contains("ab, ab") && printed.contains("hardened"));
    }
}

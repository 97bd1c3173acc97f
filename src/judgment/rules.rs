//! The numbers and choices of judgment: plain settings, one set for each model.
//!
//! Read from the configuration at start, held by `Judge`. Every value of every field gives a defined ruling; which ones a
//! configuration may have is said beside each field and checked where it is read (`config/read.rs`).

/// Which reading of the method judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The paper to the letter: one earlier picture, one radius, its hash with DC in the mean. For reproduction.
    Paper,
    /// The same method with its holes closed: many anchors, two radii, cells, a guard, suspicion. The default.
    Hardened,
}

/// Which picture the next one is compared with in [`Profile::Paper`], after a similar one was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// The one that was forwarded (line 11 of the paper's Algorithm 1, misprint corrected).
    Pinned,
    /// The one that came last (the paper's text). Small steps then carry an answer to any picture.
    Sliding,
}

/// What becomes of a suspect row of a suspected session for which no guarded anchor can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnSuspected {
    /// Refuse it: an attack learns nothing more.
    Reject,
    /// Answer it with the nearest anchor of its view in the suspect radius, guard or not; refuse it if there is none.
    Replay,
    /// Forward it all the same, for fixed cameras, whose pictures are alike by nature.
    Forward,
}

/// Every number of the ruling, as plain settings.
///
/// * In: set by configuration, from [`Rules::paper`] or [`Rules::hardened`].
/// * Out: what [`Judge`](super::Judge) compares with; units are those of each field.
/// * Blind to: contradictions; a suspect radius inside the reuse radius is obeyed as written.
/// * Costs: nothing.
/// * From: the paper's section 3.3 (`threshold`, `anchor`) and our own measurements (the rest).
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Which reading judges. Default `Hardened`.
    pub profile: Profile,
    /// `Paper` only: which picture the next is compared with. Default `Pinned`, since a sliding one drifts.
    pub anchor: Anchor,
    /// `Paper` only: the share of each distance's own total up to which pictures are similar, 0..=1. Default 0.1
    /// (25 of 256 bits, 25 of 256 positions or 102 of 1,024), the paper's 10 %.
    pub threshold: f64,
    /// How many levels two pixels may differ and still count as equal, 0..=255. Default 0, as in the paper; the
    /// cells look after changes that are small everywhere.
    pub tolerance: u8,
    /// Below this contrast, in levels (0..=255; no picture has more than 128), a picture's fingerprint alone makes it similar to nothing: its
    /// bits are noise. Contrast is the root mean square of the grey about its mean, as far as the fingerprint's
    /// block of frequencies describes it. Default 4. `Hardened` only.
    pub flat_contrast: f32,
    /// The most levels two fine cells may be apart to count as near, 0..=255. Default 16: no perturbation of
    /// 16/255 a pixel, the widest in common use, moves a cell further.
    pub cell_level: u8,
    /// The level as a share of the smaller of both pictures' deviation of cell means, 0..=255. Default 0.5: a
    /// fixed 16 took 12-23 % of distinct pages of text and dark pictures for near-copies.
    pub cell_contrast: f32,
    /// Reuse: at most this many bits of the fingerprint, 0..=256. Default 10, where JPEG and small noise stay
    /// (at most 8) and unrelated pictures never come.
    pub reuse_bits: u32,
    /// Reuse: at most this many positions of 1,024, 0..=1,024. Default 30, which is 3 %. Where fewer positions show
    /// anything, in a smaller thumbnail or on a plain ground that both pictures share, it is the same share of those,
    /// rounded down, as the paper's 10 % is of its.
    pub reuse_positions: u32,
    /// Reuse: at least this many of the 64 fine cells near, 0..=64. Default 63. Without cells
    /// here, eight forwarded suspects sufficed for a Square attack at 16/255.
    pub reuse_cells: u32,
    /// Both radii: bits count only up to this share of the bits that are set in the two fingerprints together, 0..=1.
    /// Default 0.15: the fingerprints of smooth pictures hold few bits, and few differ whatever the pictures show.
    pub bits_share: f32,
    /// Guard: at least this share of positions within `guard_level`, 0..=1. Default 0.98.
    pub guard_share: f64,
    /// Guard: the levels within which a position agrees, 0..=255. Default 20.
    pub guard_level: u8,
    /// Guard: the most levels any fine cell may be apart, 0..=255. Default 20. Two queries, a doctored copy first, get a
    /// wrong label for 0.9 % of pictures where the copy has a patch of 1 % of another class on it, and for fewer by other
    /// copies (`tests/evaluation`, `adaptive`, *two queries*).
    pub guard_cell: u8,
    /// Suspect: at most this many bits of the fingerprint, 0..=256. Default 25, the paper's 10 %.
    pub suspect_bits: u32,
    /// Suspect: at most this many positions of 1,024, scaled like `reuse_positions`. Default 102, the paper's 10 %.
    pub suspect_positions: u32,
    /// Suspect: at least this many of the 16 coarse cells near, 0..=16. Default 12, so that a
    /// patch over a quarter of the picture does not hide the rest.
    pub suspect_cells: u32,
    /// Suspect: the levels within which a coarse cell is near, 0..=255. Default 10.
    pub suspect_level: u8,
    /// Suspect: the same once the median colour cast is taken off, 0..=255. Default 8.
    pub suspect_cast_level: u8,
    /// Suspect: both levels as a share of the smaller of both pictures' deviation among the cells that are near,
    /// 0..=255. Default 0.3: with fixed levels nearly all distinct pages of text, one-colour and dark pictures were suspects
    /// of each other, and so were drawings whose ground is all that they share.
    pub suspect_contrast: f32,
    /// Suspect: at least this correlation of the fine cells, each channel's mean and slopes taken out, -1..=2; more than 1
    /// never. Default 0.93, which finds what was faded or drowned in noise, and of 32 million pairs of distinct pictures
    /// 22, most of which show one thing.
    pub suspect_correlation: f64,
    /// Suspect: how far two palettes may be apart, in deviations of the picture a tone, 0..=10; 0 never. Default
    /// 0.07, which finds most copies that were mirrored, shifted, turned or cropped a little: 17 % of such probes reach the
    /// model without it, 1.7 % with it, for 1.4 % of distinct pictures refused in place of 1.0 (`tests/evaluation`, `sweep`).
    pub suspect_palette: f32,
    /// The chroma from which on `suspect_palette` counts in full, in levels, 0.1..=255; below it counts in proportion, so not
    /// at all for grey pictures, whose palettes are much alike. Default 12.
    pub palette_chroma: f32,
    /// How many views with different other inputs may hold near-copies of one picture before other inputs no longer
    /// separate views, 1..=1,000. Default 4: enough for a client that asks about a picture in several ways, too few
    /// for an attack that draws a fresh input for each probe. Also how many forwards of exactly one picture a session
    /// may remember (as anchors, or else as ghosts) before forwarding it once more, in a new view or for want of a kept
    /// answer, is suspect: float pictures less than half a level apart are one picture here and not to the model.
    pub max_views: usize,
    /// What becomes of suspect rows of a suspected session outside the guard. Default `Reject`.
    pub on_suspected: OnSuspected,
}

impl Rules {
    /// The paper's own rule: 10 %, one pinned anchor. The other fields have their defaults and are not used.
    pub fn paper() -> Self {
        Self { profile: Profile::Paper, ..Self::hardened() }
    }

    /// The hardened rule with the defaults that are said beside each field.
    pub fn hardened() -> Self {
        Self {
            profile: Profile::Hardened,
            anchor: Anchor::Pinned,
            threshold: 0.1,
            tolerance: 0,
            flat_contrast: 4.0,
            cell_level: 16,
            cell_contrast: 0.5,
            reuse_bits: 10,
            reuse_positions: 30,
            reuse_cells: 63,
            bits_share: 0.15,
            guard_share: 0.98,
            guard_level: 20,
            guard_cell: 20,
            suspect_bits: 25,
            suspect_positions: 102,
            suspect_cells: 12,
            suspect_level: 10,
            suspect_cast_level: 8,
            suspect_contrast: 0.3,
            suspect_correlation: 0.93,
            suspect_palette: 0.07,
            palette_chroma: 12.0,
            max_views: 4,
            on_suspected: OnSuspected::Reject,
        }
    }
}

/// The default profile is [`Rules::hardened`].
impl Default for Rules {
    fn default() -> Self {
        Self::hardened()
    }
}

/// The whole part of `share` of `total`: 10 % of 256 is 25.
pub(super) fn share_of(share: f64, total: u32) -> u32 {
    // Shares are written in decimals that no binary fraction meets: 0.95 leaves 0.05000000000000004. What is meant
    // as a whole number must not fall just short of it.
    (share * f64::from(total) + 1e-6) as u32
}

/// A limit in positions of a full thumbnail (1,024) for one of `positions`, rounded down.
pub(super) fn scaled(limit: u32, positions: u32) -> u32 {
    (u64::from(limit) * u64::from(positions) / 1024) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_small_thumbnails_keep_the_share_and_round_down() {
        let cases = [
            (102, 1024, 102),
            (102, 256, 25),
            (102, 784, 78),
            (102, 35, 3),
            (102, 1, 0),
            (30, 784, 22),
            (30, 35, 1),
            (u32::MAX, 1024, u32::MAX),
        ];
        for (limit, positions, expected) in cases {
            assert_eq!(scaled(limit, positions), expected, "{limit} of {positions}");
        }
    }

    #[test]
    fn shares_meant_as_whole_numbers_are_whole() {
        let cases = [
            (0.1, 256, 25),
            (0.1, 1024, 102),
            (1.0 - 0.95, 1024, 51),
            (1.0 - 0.95, 100, 5),
            (0.29, 100, 29),
            (1.0, 256, 256),
            (0.0, 1024, 0),
            (-1.0, 1024, 0),
        ];
        for (share, total, expected) in cases {
            assert_eq!(share_of(share, total), expected, "{share} of {total}");
        }
    }
}

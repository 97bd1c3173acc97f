//! The likeness: all that is kept of a row to compare it later, and how many bytes that is.
//!
//! Made once for each row that comes in, before it is judged; kept with the anchor if the row is forwarded. When the
//! anchor goes, its ghost stays a while: enough to see that a picture was here, too little to answer with.

use super::cells::{COARSE, Cells, Grid, coarse_cells};
use super::fingerprint::{FINGERPRINT_VERSION, Fingerprint, Transforms, fingerprint_side};
use super::image::Image;
use super::outline::Outline;
use super::palette::Palette;
use super::relief::LowRelief;
use super::rules::{Profile, Rules};
use super::thumbnail::Thumbnail;

/// All that is kept of a row: thumbnail, fingerprint, cell means, palette, digest of the exact pixels.
///
/// * In: an [`Image`], by [`Judge::likeness`](super::Judge::likeness).
/// * Out: about 3.5 KB that two rows are compared by.
/// * Blind to: what the thumbnail is blind to; only the digest covers every pixel.
/// * Costs: `benches/judgment.rs`, `likeness`.
/// * From: the hash and the scaled image of the paper's Algorithm 1; cells, palette and digest are ours.
#[derive(Clone, Debug)]
pub struct Likeness {
    pub(super) outline: Outline,
    pub(super) cells: Cells,
    pub(super) thumbnail: Thumbnail,
    /// The paper's `n`, 16 or 32: a 32 x 32 thumbnail is either a small picture itself or a larger one reduced.
    pub(super) side: u8,
    pub(super) clipped: bool,
}

impl Likeness {
    pub(super) fn of(image: &Image<'_>, rules: &Rules, key: &[u8; 32], transforms: &Transforms) -> Self {
        let (thumbnail, rgb) = Thumbnail::of(image);
        let size = (thumbnail.width() as usize, thumbnail.height() as usize);
        let side = fingerprint_side(image.width(), image.height());
        let block = transforms.block(&rgb, size, side);
        let cells = Cells::of(&rgb, size);
        let outline = Outline {
            digest: Digest::of(image, key),
            fingerprint: block.fingerprint(rules.profile),
            coarse: coarse_cells(&rgb, size),
            low: LowRelief::of(&cells),
            palette: match rules.profile {
                Profile::Hardened => Palette::of(&thumbnail),
                Profile::Paper => Palette::NONE,
            },
            flat: rules.profile == Profile::Hardened && block.is_flat(rules.flat_contrast),
        };
        Self { outline, cells, thumbnail, side: side as u8, clipped: image.is_clipped() }
    }

    /// The part of it that is looked at for every anchor.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The keyed digest of the exact pixels.
    pub fn digest(&self) -> Digest {
        self.outline.digest
    }

    /// The perceptual hash, of the profile that made this likeness.
    pub fn fingerprint(&self) -> Fingerprint {
        self.outline.fingerprint
    }

    /// The picture at no more than 32 x 32.
    pub fn thumbnail(&self) -> &Thumbnail {
        &self.thumbnail
    }

    /// Whether the fingerprint alone counts for nothing, for want of contrast. Never in [`Profile::Paper`].
    pub fn is_flat(&self) -> bool {
        self.outline.flat
    }

    /// Whether some source value was clipped to make the picture.
    pub fn is_clipped(&self) -> bool {
        self.clipped
    }

    /// The mean colours of the 8 x 8 grid, in levels: red, green and blue, 64 cells each, row-major.
    pub fn fine_cells(&self) -> &[[u8; 64]; 3] {
        &self.cells.fine
    }

    /// The mean colours of the 4 x 4 grid, in levels: red, green and blue, 16 cells each, row-major.
    pub fn coarse_cells(&self) -> &[[u8; 16]; 3] {
        &self.outline.coarse
    }

    /// The standard deviation of the fine cells, in levels, 0..=127.5: the root of the mean over the channels of
    /// the variance over the cells. The near-copy level follows it.
    pub fn cell_deviation(&self) -> f32 {
        self.cells.deviation
    }

    /// The bytes this likeness holds, its heap included, without what the allocator adds.
    pub fn footprint(&self) -> usize {
        // The bytes of an `Arc` and its two counts.
        size_of::<Self>() + self.thumbnail.bytes().len() + 2 * size_of::<usize>()
    }

    /// What stays of it when its anchor goes.
    pub fn ghost(&self) -> Ghost {
        let Outline { fingerprint, coarse, flat, .. } = self.outline;
        Ghost { fingerprint: if flat { Fingerprint::NONE } else { fingerprint }, coarse }
    }
}

/// The keyed digest of a picture's exact pixels and size, and of its source where that was rounded or clipped: 128 bits.
///
/// * In: an [`Image`] and the judge's key.
/// * Out: 16 bytes, equal for an exact repeat and, but for a chance of 2^-128, for nothing else.
/// * Blind to: in what form the picture came (dtype, layout, file format), as long as every value is a level.
/// * Costs: a hash of the pixels (`benches/judgment.rs`, `digest`).
/// * From: BLAKE3 with a key, so that nobody outside can look for two pictures of one digest, or recognise a
///   picture in a dump by its digest. The paper has no such step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 16]);

/// What is hashed besides the pixels, in bytes: version, source or none, sides, the source's hash.
const ABOUT: usize = 42;

/// Four pieces of the hash, which it takes in side by side.
const SMALL: usize = 4096;

impl Digest {
    fn of(image: &Image<'_>, key: &[u8; 32]) -> Self {
        let mut about = [0; ABOUT];
        about[0] = FINGERPRINT_VERSION;
        about[2..6].copy_from_slice(&image.width().to_le_bytes());
        about[6..10].copy_from_slice(&image.height().to_le_bytes());
        if let Some(exact) = image.source() {
            about[1] = 1;
            about[10..].copy_from_slice(exact);
        }
        let mut hasher = blake3::Hasher::new_keyed(key);
        let rgb = image.rgb();
        if ABOUT + rgb.len() <= SMALL {
            // Filled up to what the hash takes in at one go; it takes 3 KiB piece by piece, more than twice as long. The sizes come
            // first, so where the pixels end is beyond dispute.
            let mut all = [0; SMALL];
            all[..ABOUT].copy_from_slice(&about);
            all[ABOUT..ABOUT + rgb.len()].copy_from_slice(rgb);
            hasher.update(&all);
        } else {
            // The pixels come first, because the hash is fastest on whole aligned blocks. What follows them has one length always, so
            // no two pictures share their input; and it is longer than that of any small one.
            hasher.update(rgb);
            hasher.update(&about);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(digest)
    }

    /// The 16 bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// What stays of an anchor that was evicted or expired: its fingerprint and coarse cells, 80 bytes.
///
/// * In: a [`Likeness`].
/// * Out: enough to make a near-copy suspect, too little to replay an answer.
/// * Blind to: single pixels, and everything else that neither hash nor coarse cells see.
/// * Costs: `benches/judgment.rs`, `ghosts`.
/// * From: our own; without ghosts, decoys flush the memory between two probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ghost {
    /// [`Fingerprint::NONE`] if the picture was flat: its hash must not count, and no other picture has it.
    pub(super) fingerprint: Fingerprint,
    pub(super) coarse: Grid<COARSE>,
}

// A session keeps a thousand of them; a field more would be a byte budget broken without a word.
const _: () = assert!(size_of::<Ghost>() == 80);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn likeness(image: &Image<'_>) -> Likeness {
        Likeness::of(image, &Rules::hardened(), &[7; 32], &Transforms::plan())
    }

    fn image(width: u32, height: u32, seed: usize) -> Image<'static> {
        let bytes = (0..(width * height * 3) as usize).map(|i| ((i * 31 + seed) ^ (i >> 3)) as u8);
        Image::new(width, height, bytes.collect::<Vec<_>>().into()).unwrap()
    }

    #[test]
    fn only_an_exact_repeat_has_the_same_digest() {
        let base = likeness(&image(8, 6, 1)).digest();
        assert_eq!(base, likeness(&image(8, 6, 1)).digest());
        let mut changed = image(8, 6, 1).rgb().to_vec();
        changed[143] ^= 1;
        let changed = Image::new(8, 6, changed.into()).unwrap();
        let turned = Image::new(6, 8, image(8, 6, 1).rgb().to_vec().into()).unwrap();
        let clipped = |exact: &[u8]| likeness(&image(8, 6, 1).clipped(exact)).digest();
        let others = [
            likeness(&changed).digest(),
            likeness(&turned).digest(),
            clipped(b""),
            clipped(b"300"),
            clipped(b"301"),
            Likeness::of(&image(8, 6, 1), &Rules::hardened(), &[8; 32], &Transforms::plan()).digest(),
        ];
        for (i, other) in others.iter().enumerate() {
            assert_ne!(base, *other, "{i}");
            assert!(!others[..i].contains(other), "{i}");
        }
        assert_eq!(clipped(b"300"), clipped(b"300"));
    }

    #[test]
    fn the_footprint_counts_the_heap() {
        let small = likeness(&image(7, 5, 1));
        let large = likeness(&image(64, 64, 1));
        assert_eq!(small.footprint(), size_of::<Likeness>() + 105 + 16);
        assert_eq!(large.footprint(), size_of::<Likeness>() + 3072 + 16);
    }

    #[test]
    fn the_ghost_of_a_flat_picture_has_no_fingerprint() {
        let flat = likeness(&Image::new(32, 32, vec![90; 3072].into()).unwrap());
        assert!(flat.is_flat());
        assert_eq!(flat.ghost().fingerprint, Fingerprint::NONE);
        let lively = likeness(&image(32, 32, 3));
        assert!(!lively.is_flat());
        assert_eq!(lively.ghost().fingerprint, lively.fingerprint());
        assert_eq!(lively.ghost().coarse, *lively.coarse_cells());
    }
}

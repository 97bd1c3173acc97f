//! What a picture is: 8-bit RGB, height x width x 3, row-major.
//!
//! The first thing judgment meets. The readers of `protocol` make an `Image` of every form in which a model
//! server takes one, and check it here, once, so that nothing after this file can fail.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// The longest side an [`Image`] may have, in pixels.
///
/// It bounds every sum in this folder: the weights of an area average stay below 2^28 and its sums below 2^36.
/// Classifiers take far less; a reader refuses larger pictures before it allocates anything.
pub const MAX_SIDE: u32 = 16_384;

/// One picture as the model sees it: 8-bit RGB, height x width x 3, row-major. No empty or oversized one exists.
///
/// * In: pixels in 0..=255, three channels; grey pictures come with their channel repeated.
/// * Out: what [`Judge::likeness`](super::Judge::likeness) takes.
/// * Blind to: anything a picture loses on its way to 8 bits, except where [`Image::rounded`] or [`Image::clipped`] says so.
/// * Costs: nothing beyond the pixels; they are borrowed where the request's bytes are already in this form.
/// * From: our own canonical form; the paper speaks of images without saying their form.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    width: u32,
    height: u32,
    rgb: Cow<'a, [u8]>,
    /// The unkeyed hash of the source values, where the pixels do not tell them all. It is enough to tell two sources
    /// apart, and 32 bytes are cheaper to carry than a second copy of the tensor.
    source: Option<[u8; 32]>,
    clipped: bool,
}

impl<'a> Image<'a> {
    /// Checks that `rgb` is a picture of `width` x `height`.
    ///
    /// * In: sides in pixels, 1..=[`MAX_SIDE`] each; `rgb` of exactly `width * height * 3` bytes.
    /// * Out: the picture, or what was wrong with it.
    /// * Fails on: empty and oversized sides, a length that does not fit them.
    /// * Costs: two comparisons.
    /// * From: our own; the bounds are those of [`MAX_SIDE`].
    pub fn new(width: u32, height: u32, rgb: Cow<'a, [u8]>) -> Result<Self, ImageError> {
        let allowed = 1..=MAX_SIDE;
        if !allowed.contains(&width) || !allowed.contains(&height) {
            return Err(ImageError::Side { width, height });
        }
        let expected = u64::from(width) * u64::from(height) * 3;
        if rgb.len() as u64 != expected {
            return Err(ImageError::Length { expected, found: rgb.len() as u64 });
        }
        Ok(Self { width, height, rgb, source: None, clipped: false })
    }

    /// Marks that source values lay between two levels and were rounded.
    ///
    /// * In: `exact`, the source values as they came (the tensor's bytes), of any length.
    /// * Out: the same pixels; their digest now covers `exact` too, so that only a true repeat is an exact repeat. All
    ///   distances stay as they are: what was rounded away is less than half a level.
    /// * Blind to: the order of the source's dimensions: the same values in another layout are a near-copy.
    /// * Costs: one hash of `exact` (`benches/judgment.rs`, `digest`).
    /// * From: our own: an exact repeat is innocent because it tells nothing new, which must then be true of the model's
    ///   own input.
    #[must_use]
    pub fn rounded(mut self, exact: &[u8]) -> Self {
        self.source = Some(*blake3::hash(exact).as_bytes());
        self
    }

    /// Marks that some source value lay outside 0..=255 and was clipped, so the model sees more than this picture.
    ///
    /// * In: `exact`, the source values as they came (the tensor's bytes), of any length.
    /// * Out: the same pixels; their digest now covers `exact` too, so that only a true repeat is an exact repeat,
    ///   and the guard fails for every other comparison, so that no answer is reused at once.
    /// * Blind to: how far a value lay outside.
    /// * Costs: one hash of `exact` (`benches/judgment.rs`, `digest`).
    /// * From: our own; the paper's images are all within range.
    #[must_use]
    pub fn clipped(self, exact: &[u8]) -> Self {
        Self { clipped: true, ..self.rounded(exact) }
    }

    /// Pixels from left to right, 1..=[`MAX_SIDE`].
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels from top to bottom, 1..=[`MAX_SIDE`].
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, `width * height * 3` bytes, row-major, red first.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Whether some source value was clipped to make this picture.
    pub fn is_clipped(&self) -> bool {
        self.clipped
    }

    pub(super) fn source(&self) -> Option<&[u8; 32]> {
        self.source.as_ref()
    }
}

/// Why some bytes are no [`Image`]. The reader of the request is at fault, or the caller whose shape it believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// A side is zero or longer than [`MAX_SIDE`], in pixels.
    Side {
        /// The width that was given.
        width: u32,
        /// The height that was given.
        height: u32,
    },
    /// The bytes are not `width * height * 3`.
    Length {
        /// The bytes that the sides call for.
        expected: u64,
        /// The bytes that came.
        found: u64,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Side { width, height } => {
                write!(f, "an image of {width} x {height} pixels: each side must be 1 to {MAX_SIDE}")
            }
            Self::Length { expected, found } => {
                write!(f, "an image of {found} bytes where its sides call for {expected}")
            }
        }
    }
}

impl Error for ImageError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_of_a_possible_size_exist() {
        let cases = [
            (0, 4, 0, Err(ImageError::Side { width: 0, height: 4 })),
            (4, 0, 0, Err(ImageError::Side { width: 4, height: 0 })),
            (MAX_SIDE + 1, 1, 49_155, Err(ImageError::Side { width: MAX_SIDE + 1, height: 1 })),
            (u32::MAX, u32::MAX, 3, Err(ImageError::Side { width: u32::MAX, height: u32::MAX })),
            (2, 2, 11, Err(ImageError::Length { expected: 12, found: 11 })),
            (2, 2, 13, Err(ImageError::Length { expected: 12, found: 13 })),
            (2, 2, 12, Ok(())),
            (MAX_SIDE, 1, 49_152, Ok(())),
        ];
        for (width, height, bytes, expected) in cases {
            let found = Image::new(width, height, vec![0; bytes].into()).map(|_| ());
            assert_eq!(found, expected, "{width} x {height} in {bytes} bytes");
        }
    }
}

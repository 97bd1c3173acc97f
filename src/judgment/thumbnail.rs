//! The thumbnail: what all distances are measured on, at most 32 x 32 RGB.
//!
//! The second step after `Image`: a picture of at most 32 x 32 stays as it is, any other becomes exactly 32 x 32 by
//! the area average. Its planes are kept one after the other (all red, all green, all blue), because comparing
//! sixteen positions at a time needs a channel's values side by side.

use std::borrow::Cow;
use std::sync::Arc;

use fearless_simd::{Level, dispatch};

use super::area::area_average;
use super::image::Image;

/// The longest side of a thumbnail, in pixels.
pub(super) const THUMBNAIL_SIDE: usize = 32;

/// A picture reduced to what judgment compares: `width * height` positions of three channels, sides 1..=32.
///
/// * In: an [`Image`].
/// * Out: levels in 0..=255, in planes.
/// * Blind to: everything finer than a 32nd of a side. A patch of a few pixels in a large picture moves one
///   position by a few levels; what it does to the answer is the guard's concern.
/// * Costs: one pass over the picture (`benches/judgment.rs`, `likeness`).
/// * From: the size scaling of the paper's section 3.3.1. We differ: the paper leaves the filter open, ours is the
///   exact area average in integers, and colour is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbnail {
    width: u8,
    height: u8,
    /// Shared: who is judged, the anchor that it becomes and whoever follows that look at the same bytes.
    planes: Arc<[u8]>,
}

impl Thumbnail {
    /// Reduces a picture; also returns its interleaved pixels, from which cells and fingerprint are made.
    pub(super) fn of<'a>(image: &'a Image<'_>) -> (Self, Cow<'a, [u8]>) {
        let (width, height) = (image.width() as usize, image.height() as usize);
        if width <= THUMBNAIL_SIDE && height <= THUMBNAIL_SIDE {
            (Self::from_interleaved(width, height, image.rgb()), image.rgb().into())
        } else {
            let side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE);
            let rgb = area_average::<3>(image.rgb(), (width, height), side);
            (Self::from_interleaved(THUMBNAIL_SIDE, THUMBNAIL_SIDE, &rgb), rgb.into())
        }
    }

    fn from_interleaved(width: usize, height: usize, rgb: &[u8]) -> Self {
        let positions = width * height;
        let mut planes: Arc<[u8]> = std::iter::repeat_n(0, positions * 3).collect();
        let alone = Arc::get_mut(&mut planes).expect("it was made in the line above");
        let (red, rest) = alone.split_at_mut(positions);
        let (green, blue) = rest.split_at_mut(positions);
        let (pixels, _) = rgb.as_chunks::<3>();
        let places = pixels.iter().zip(red).zip(green).zip(blue);
        dispatch!(Level::new(), _simd => for (((pixel, red), green), blue) in places {
            [*red, *green, *blue] = *pixel;
        });
        Self { width: width as u8, height: height as u8, planes }
    }

    /// The area average at `side` x `side`, for the paper's comparison at the fingerprint's own size.
    pub(super) fn at_side(&self, side: u8) -> Cow<'_, Self> {
        if (self.width, self.height) == (side, side) {
            return Cow::Borrowed(self);
        }
        let size = (usize::from(self.width), usize::from(self.height));
        let to = (usize::from(side), usize::from(side));
        let planes = self.planes().map(|plane| area_average::<1>(plane, size, to)).concat();
        Cow::Owned(Self { width: side, height: side, planes: planes.into() })
    }

    /// Pixels from left to right, 1..=32.
    pub fn width(&self) -> u32 {
        u32::from(self.width)
    }

    /// Pixels from top to bottom, 1..=32.
    pub fn height(&self) -> u32 {
        u32::from(self.height)
    }

    /// How many positions it has: `width * height`, 1..=1,024.
    pub fn positions(&self) -> u32 {
        self.width() * self.height()
    }

    /// The red, green and blue planes, each `width * height` levels, row-major.
    #[inline]
    pub fn planes(&self) -> [&[u8]; 3] {
        let (red, rest) = self.planes.split_at(self.planes.len() / 3);
        let (green, blue) = rest.split_at(rest.len() / 2);
        [red, green, blue]
    }

    /// All three planes, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.planes
    }

    /// Whether positions of the two can be compared one with one.
    pub(super) fn same_size(&self, other: &Self) -> bool {
        (self.width, self.height) == (other.width, other.height)
    }
}

#[cfg(test)]
pub(super) fn thumbnail_of(width: u32, height: u32, pixel: impl Fn(usize) -> [u8; 3]) -> Thumbnail {
    let rgb: Vec<u8> = (0..(width * height) as usize).flat_map(pixel).collect();
    Thumbnail::from_interleaved(width as usize, height as usize, &rgb)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sides(width: u32, height: u32) -> (u32, u32) {
        let image = Image::new(width, height, vec![9; (width * height * 3) as usize].into()).unwrap();
        let (thumbnail, _) = Thumbnail::of(&image);
        assert!(thumbnail.bytes().iter().all(|&level| level == 9));
        (thumbnail.width(), thumbnail.height())
    }

    #[test]
    fn only_pictures_with_a_side_above_32_are_reduced() {
        let cases = [
            ((32, 32), (32, 32)),
            ((1, 1), (1, 1)),
            ((7, 5), (7, 5)),
            ((33, 32), (32, 32)),
            ((4, 100), (32, 32)),
            ((224, 224), (32, 32)),
        ];
        for ((width, height), expected) in cases {
            assert_eq!(sides(width, height), expected, "{width} x {height}");
        }
    }

    #[test]
    fn planes_hold_one_channel_each() {
        let thumbnail = thumbnail_of(2, 1, |i| [i as u8, 10 + i as u8, 20 + i as u8]);
        assert_eq!(thumbnail.planes(), [[0, 1], [10, 11], [20, 21]]);
        assert_eq!(thumbnail.positions(), 2);
    }
}

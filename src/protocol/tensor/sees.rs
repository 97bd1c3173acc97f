//! What of a picture the model looks at, where it crops its input itself.

/// How a model resizes a picture before it crops, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(untagged)]
pub enum Resize {
    /// So that the shorter side has this many, the other in proportion.
    Shorter(u32),
    /// To this width and height, whatever the proportions.
    Stretch([u32; 2]),
}

/// The central region that a model looks at: first its resize, then its crop.
///
/// A caller who knows it could change what lies outside from query to query and be taken for somebody with new pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sees {
    /// None: the crop counts pixels of the picture as it is sent.
    pub resize: Option<Resize>,
    /// Width and height of what is left, in pixels after the resize.
    pub crop: [u32; 2],
}

/// A part of a picture, in pixels, ends excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Region {
    across: (u32, u32),
    down: (u32, u32),
}

/// Pixels after the resize by which the region reaches beyond the crop on every side: one for the different ways in which
/// servers round sides and offsets, one for the reach of a bilinear filter.
const MARGIN: u64 = 2;

impl Sees {
    /// The part that is looked at of a picture of `width` x `height`; none where that is all of it.
    ///
    /// In whole source pixels, by integer arithmetic, rounded outward: nothing that the model sees is left out. With a resize
    /// it reaches two resized pixels further on every side; filters that reach further still (bicubic by a half, Lanczos by
    /// one and a half) weigh what lies there with a few hundredths.
    pub(in crate::protocol) fn region(self, width: u32, height: u32) -> Option<Region> {
        let side = |length: u32, crop: u32, scaled: Option<(u32, u32)>| {
            // A resized pixel is `source / target` pixels of the picture.
            let (source, target, margin) = match scaled {
                None => (1, 1, 0),
                Some((source, target)) => (u64::from(source), u64::from(target.max(1)), MARGIN),
            };
            let length = u64::from(length);
            let (whole, seen) = (length * target, (u64::from(crop) + 2 * margin) * source);
            let from = whole.saturating_sub(seen) / (2 * target);
            let to = (whole + seen).div_ceil(2 * target).min(length);
            (from as u32, to as u32)
        };
        let shorter = width.min(height);
        let [across, down] = match self.resize {
            None => [None, None],
            Some(Resize::Shorter(target)) => [Some((shorter, target)); 2],
            Some(Resize::Stretch([across, down])) => [Some((width, across)), Some((height, down))],
        };
        let region =
            Region { across: side(width, self.crop[0], across), down: side(height, self.crop[1], down) };
        (region != Region { across: (0, width), down: (0, height) }).then_some(region)
    }
}

impl Region {
    /// Pixels from left to right.
    pub(in crate::protocol) fn width(self) -> u32 {
        self.across.1 - self.across.0
    }

    /// Pixels from top to bottom.
    pub(in crate::protocol) fn height(self) -> u32 {
        self.down.1 - self.down.0
    }

    /// The region's bytes out of one plane of a picture `width` pixels wide, of `pixel` bytes each.
    pub(in crate::protocol) fn cut(self, plane: &[u8], width: u32, pixel: usize) -> Vec<u8> {
        let (from, to) = (self.across.0 as usize * pixel, self.across.1 as usize * pixel);
        let rows = plane.chunks_exact(width as usize * pixel).skip(self.down.0 as usize);
        rows.take(self.height() as usize).flat_map(|row| &row[from..to]).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(sees: Sees, width: u32, height: u32) -> ((u32, u32), (u32, u32)) {
        let all = Region { across: (0, width), down: (0, height) };
        let Region { across, down } = sees.region(width, height).unwrap_or(all);
        (across, down)
    }

    #[test]
    fn a_crop_is_central_and_rounded_outward() {
        let sees = |crop| Sees { resize: None, crop };
        assert_eq!(region(sees([2, 2]), 4, 6), ((1, 3), (2, 4)));
        // One more where it cannot stand in the middle.
        assert_eq!(region(sees([2, 2]), 5, 7), ((1, 4), (2, 5)));
        assert_eq!(region(sees([9, 2]), 4, 6), ((0, 4), (2, 4)));
        assert!(sees([4, 6]).region(4, 6).is_none() && sees([9, 9]).region(4, 6).is_none());
        assert_eq!(region(sees([1, 1]), 1, 1), ((0, 1), (0, 1)));
    }

    #[test]
    fn a_resize_scales_what_is_cropped() {
        let shorter = Sees { resize: Some(Resize::Shorter(256)), crop: [224, 224] };
        // 512 x 1024: a resized pixel is two, so 448 in the middle and four more on every side.
        assert_eq!(region(shorter, 512, 1024), ((28, 484), (284, 740)));
        assert_eq!(region(shorter, 256, 256), ((14, 242), (14, 242)));
        let stretch = Sees { resize: Some(Resize::Stretch([256, 128])), crop: [224, 100] };
        assert_eq!(region(stretch, 512, 512), ((28, 484), (48, 464)));
    }

    #[test]
    fn no_sides_make_an_empty_region_or_one_outside_the_picture() {
        let resizes =
            [None, Some(Resize::Shorter(7)), Some(Resize::Stretch([3, 1000])), Some(Resize::Shorter(0))];
        for resize in resizes {
            for crop in [[1, 1], [0, 5], [224, 3], [u32::MAX, u32::MAX]] {
                for (width, height) in [(1, 1), (2, 16_384), (16_384, 16_384), (31, 17)] {
                    let (across, down) = region(Sees { resize, crop }, width, height);
                    assert!(across.0 <= across.1 && across.1 <= width, "{resize:?} {crop:?}");
                    assert!(down.0 <= down.1 && down.1 <= height, "{resize:?} {crop:?}");
                    if crop != [0, 5] {
                        assert!(across.0 < across.1 && down.0 < down.1, "{resize:?} {crop:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_cut_takes_whole_pixels_row_by_row() {
        let plane: Vec<u8> = (0..4 * 3 * 2).collect();
        let region = Region { across: (1, 3), down: (1, 3) };
        assert_eq!(region.cut(&plane, 4, 2), [10, 11, 12, 13, 18, 19, 20, 21]);
    }
}

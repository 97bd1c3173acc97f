//! The palette distance: what colours a picture shows, and how they lie around its middle.
//!
//! The other distances compare place with place, so whoever mirrors, turns, shifts or crops each copy a little walks
//! past them. The palette asks only which levels a picture holds, and which of them lie nearer its middle; brightness
//! and contrast are taken out. So little is left that it serves for suspicion and never for an answer. `hardened` only.

use std::borrow::Cow;
use std::sync::LazyLock;

use fearless_simd::{Level, dispatch};

use super::thumbnail::{THUMBNAIL_SIDE, Thumbnail};

/// Shares of equal size that a channel's levels are ranked into, and rings around the middle.
const TONES: usize = 8;
const RINGS: usize = 4;

/// Bytes of a palette: tones and rings of three channels.
const BYTES: usize = 3 * (TONES + RINGS);

/// Steps of a byte in one deviation of the picture: of a tone, and of a ring, which counts for two fifths of one.
const TONE_STEPS: f32 = 48.0;
const RING_STEPS: f32 = 19.2;

/// Levels added to a picture's deviation, so that flat pictures do not show their noise.
const FLOOR: f32 = 2.0;

/// The colours of a picture, freed from their places, and how much colour there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Palette {
    steps: [u8; BYTES],
    /// The standard deviation of the differences between channels, in whole levels, rounded down. A grey picture has
    /// none: its three channels say one thing, and other grey pictures say it too.
    chroma: u8,
}

impl Palette {
    /// That of a picture for which none is needed: no other lies near it.
    pub(super) const NONE: Self = Self { steps: [0; BYTES], chroma: 0 };

    /// That of a thumbnail.
    pub(super) fn of(thumbnail: &Thumbnail) -> Self {
        dispatch!(Level::new(), _simd => Self::mixed(thumbnail))
    }

    #[inline(always)]
    fn mixed(thumbnail: &Thumbnail) -> Self {
        let planes = thumbnail.planes();
        let of = planes[0].len() as u64;
        let sums = planes.map(sum);
        let means = sums.map(|sum| sum as f32 / of as f32);
        let spread: u64 = planes.iter().zip(sums).map(|(plane, sum)| of * squares(plane) - sum * sum).sum();
        let deviation = root_of_share(spread, 3 * of * of) + FLOOR;

        let rings = Rings::of(thumbnail.width() as usize, thumbnail.height() as usize);
        let mut steps = [0; BYTES];
        for (channel, (plane, mean)) in planes.into_iter().zip(means).enumerate() {
            let step = |level: f32, steps: f32| ((level - mean) * steps / deviation + 128.5).floor() as u8;
            let (tones, inner) = steps[channel * (TONES + RINGS)..][..TONES + RINGS].split_at_mut(TONES);
            for (tone, level) in tones.iter_mut().zip(tones_of(plane, mean)) {
                *tone = step(level, TONE_STEPS);
            }
            for (ring, level) in inner.iter_mut().zip(rings.means(plane, mean)) {
                *ring = step(level, RING_STEPS);
            }
        }
        Self { steps, chroma: chroma(planes) }
    }

    /// Whether two palettes differ by less than `share` of a deviation a tone on average, or by less than a share of
    /// that where either picture has less than `enough` levels of chroma.
    #[inline(always)]
    pub(super) fn is_near(&self, other: &Self, share: f32, enough: f32) -> bool {
        let chroma = (f32::from(self.chroma.min(other.chroma)) / enough).min(1.0);
        self.distance(other) < share * chroma
    }

    /// How far apart they are, in deviations of the picture a tone.
    #[inline(always)]
    pub(super) fn distance(&self, other: &Self) -> f32 {
        self.apart(other) as f32 / (TONE_STEPS * (3 * TONES) as f32)
    }

    #[inline(always)]
    fn apart(&self, other: &Self) -> u32 {
        self.steps.iter().zip(&other.steps).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
    }
}

#[inline(always)]
fn sum(plane: &[u8]) -> u64 {
    plane.iter().map(|&level| u64::from(level)).sum()
}

/// The sum of the squares: of 1,024 levels at most, which 32 bits hold.
#[inline(always)]
fn squares(plane: &[u8]) -> u64 {
    u64::from(plane.iter().map(|&level| u32::from(level) * u32::from(level)).sum::<u32>())
}

/// The mean levels of `TONES` equal shares of a plane's pixels, the darkest first; the first of them hold one pixel more
/// where they do not divide. A share without a pixel has the `mean` of all.
fn tones_of(plane: &[u8], mean: f32) -> [f32; TONES] {
    // A thumbnail has at most 1,024 positions.
    let mut counts = [0u16; 256];
    for &level in plane {
        counts[usize::from(level)] += 1;
    }
    let mut levels = counts.into_iter().zip(0u32..).map(|(count, level)| (u32::from(count), level));
    let (mut left, mut level) = (0, 0);
    let of = plane.len();
    std::array::from_fn(|share| {
        let size = (of / TONES + usize::from(share < of % TONES)) as u32;
        let (mut missing, mut sum) = (size, 0);
        while missing > 0 {
            if left == 0 {
                let Some(next) = levels.next() else { break };
                (left, level) = next;
            }
            let taken = missing.min(left);
            sum += taken * level;
            left -= taken;
            missing -= taken;
        }
        if size == 0 { mean } else { sum as f32 / size as f32 }
    })
}

/// In which ring each position lies, and how many positions each ring has. A ring is an ellipse's: it ends at 3, 5 and 7
/// eighths of the half sides, and the last holds the corners.
#[derive(Clone)]
struct Rings {
    of: [u8; THUMBNAIL_SIDE * THUMBNAIL_SIDE],
    counts: [u32; RINGS],
}

/// Nearly all thumbnails have the full size.
static FULL: LazyLock<Rings> = LazyLock::new(|| Rings::draw(THUMBNAIL_SIDE, THUMBNAIL_SIDE));

impl Rings {
    fn of(width: usize, height: usize) -> Cow<'static, Self> {
        if (width, height) == (THUMBNAIL_SIDE, THUMBNAIL_SIDE) {
            Cow::Borrowed(&FULL)
        } else {
            Cow::Owned(Self::draw(width, height))
        }
    }

    fn draw(width: usize, height: usize) -> Self {
        // How far from the middle, in half sides squared, times 64 and both sides squared: whole, so that every machine
        // draws the same rings.
        let off = |at: usize, side: usize| (2 * at + 1).abs_diff(side).pow(2);
        let (across, down) = (width * width, height * height);
        let ends = [9, 25, 49].map(|end| end * across * down);
        let mut rings = Self { of: [0; THUMBNAIL_SIDE * THUMBNAIL_SIDE], counts: [0; RINGS] };
        for (position, ring) in rings.of[..width * height].iter_mut().enumerate() {
            let far = 64 * (off(position / width, height) * across + off(position % width, width) * down);
            let inside = ends.iter().filter(|&&end| far >= end).count();
            *ring = inside as u8;
            rings.counts[inside] += 1;
        }
        rings
    }

    /// The mean level of each ring in a plane; the `mean` of all where it has no position.
    #[inline(always)]
    fn means(&self, plane: &[u8], mean: f32) -> [f32; RINGS] {
        let mut means = [mean; RINGS];
        for (number, (ring, &count)) in means.iter_mut().zip(&self.counts).enumerate() {
            let mut sum = 0;
            for (&level, &of) in plane.iter().zip(&self.of) {
                sum += if usize::from(of) == number { u32::from(level) } else { 0 };
            }
            if count > 0 {
                *ring = sum as f32 / count as f32;
            }
        }
        means
    }
}

/// The standard deviation of red less green and of green less blue, in whole levels.
#[inline(always)]
fn chroma([red, green, blue]: [&[u8]; 3]) -> u8 {
    let of = red.len() as i64;
    let mut spread = 0;
    for (one, other) in [(red, green), (green, blue)] {
        let (mut sum, mut squares) = (0, 0);
        for (&one, &other) in one.iter().zip(other) {
            let apart = i32::from(one) - i32::from(other);
            sum += apart;
            squares += apart * apart;
        }
        spread += of * i64::from(squares) - i64::from(sum).pow(2);
    }
    root_of_share(spread.unsigned_abs(), (2 * of * of).unsigned_abs()) as u8
}

/// The root of a quotient of whole numbers; the only roundings are those of the quotient and of the root.
fn root_of_share(sum: u64, of: u64) -> f32 {
    ((sum as f64 / of as f64) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::thumbnail::thumbnail_of;
    use super::*;

    /// A picture of many colours, without any likeness between its halves.
    fn colours(width: usize, height: usize) -> Vec<[u8; 3]> {
        let level = |x: usize, y: usize, c: usize| ((x * x * (c + 3) + y * (29 - 7 * c) + x * y) % 241) as u8;
        (0..width * height).map(|i| [0, 1, 2].map(|c| level(i % width, i / width, c))).collect()
    }

    fn palette(pixels: &[[u8; 3]], width: usize) -> Palette {
        Palette::of(&thumbnail_of(width as u32, (pixels.len() / width) as u32, |at| pixels[at]))
    }

    fn near(a: &Palette, b: &Palette) -> bool {
        a.is_near(b, 0.06, 8.0)
    }

    #[test]
    fn mirrored_and_turned_by_a_quarter_it_is_the_same() {
        let picture = colours(32, 32);
        let at = |x: usize, y: usize| picture[32 * y + x];
        let other = |way: &dyn Fn(usize, usize) -> [u8; 3]| {
            palette(&(0..1024).map(|i| way(i % 32, i / 32)).collect::<Vec<_>>(), 32)
        };
        let own = palette(&picture, 32);
        assert_eq!(own, other(&|x, y| at(31 - x, y)));
        assert_eq!(own, other(&|x, y| at(x, 31 - y)));
        assert_eq!(own, other(&|x, y| at(y, 31 - x)));
    }

    #[test]
    fn brightness_and_contrast_are_taken_out_and_other_pictures_are_far() {
        let picture = colours(32, 32);
        let own = palette(&picture, 32);
        let dimmed: Vec<_> = picture.iter().map(|pixel| pixel.map(|level| 20 + level / 2)).collect();
        assert!(near(&own, &palette(&dimmed, 32)));
        let swapped: Vec<_> =
            picture.iter().map(|&[red, green, blue]| [red / 2, 255 - green, blue / 3]).collect();
        assert!(!near(&own, &palette(&swapped, 32)));
        // The same colours, those of the middle and of the corners changed round.
        let mut ranked = picture.clone();
        ranked.sort_unstable();
        assert!(palette(&ranked, 32).apart(&own) > 0);
    }

    #[test]
    fn grey_pictures_are_near_nothing_and_dull_ones_only_what_is_nearer() {
        let grey: Vec<_> = colours(32, 32).iter().map(|pixel| [pixel[0]; 3]).collect();
        assert_eq!(palette(&grey, 32).chroma, 0);
        assert!(!near(&palette(&grey, 32), &palette(&grey, 32)));
        let shown = |chroma, first| {
            let mut steps = [128; BYTES];
            steps[0] += first;
            Palette { steps, chroma }
        };
        // 0.06 of 48 steps in each of 24 tones are 69.12 steps.
        let cases =
            [(8, 69, true), (8, 70, false), (200, 69, true), (4, 34, true), (4, 35, false), (0, 0, false)];
        for (chroma, first, expected) in cases {
            let (a, b) = (shown(chroma, 0), shown(255, first));
            assert_eq!((near(&a, &b), near(&b, &a)), (expected, expected), "{chroma} {first}");
        }
        assert!(!near(&Palette::NONE, &Palette::NONE));
    }

    #[test]
    fn tones_are_the_means_of_equal_shares() {
        let doubled = |plane: &[u8], mean| tones_of(plane, mean).map(|tone| (2.0 * tone) as u32);
        let plane = [9, 1, 5, 3, 7, 2, 8, 4, 6, 0];
        assert_eq!(doubled(&plane, 4.5), [1, 5, 8, 10, 12, 14, 16, 18]);
        assert_eq!(doubled(&plane[..2], 5.0), [2, 18, 10, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn rings_hold_every_pixel_once_and_the_middle_comes_first() {
        for (width, height) in [(32, 32), (31, 17), (1, 1), (2, 32)] {
            let rings = Rings::of(width, height);
            assert_eq!(rings.counts.iter().sum::<u32>() as usize, width * height);
        }
        let mut dot = vec![0; 1024];
        dot[16 * 32 + 16] = 200;
        let rings = Rings::of(32, 32);
        let bits = |means: [f32; RINGS]| means.map(f32::to_bits);
        assert_eq!(bits(rings.means(&dot, 0.0)), bits([200.0 / rings.counts[0] as f32, 0.0, 0.0, 0.0]));
        assert_eq!(bits(Rings::of(1, 1).means(&[7], 3.0)), bits([7.0, 3.0, 3.0, 3.0]));
    }

    #[test]
    fn every_size_has_a_palette() {
        for (width, height) in [(1, 1), (1, 32), (2, 3), (7, 5), (32, 31)] {
            let pixels = colours(width, height);
            assert_eq!(palette(&pixels, width), palette(&pixels, width));
        }
    }
}

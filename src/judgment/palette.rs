//! The palette distance: what colours a picture shows, and how they lie around its middle.
//!
//! The other distances compare place with place, so whoever mirrors, turns, shifts or crops each copy a little walks
//! past them. The palette asks only which levels a picture holds, and which of them lie nearer its middle; brightness
//! and contrast are taken out. So little is left that it serves for suspicion and never for an answer. `hardened` only.

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

    /// That of the interleaved pixels of a thumbnail, `(width, height)`.
    pub(super) fn of(rgb: &[u8], size: (usize, usize)) -> Self {
        let pixels = rgb.as_chunks::<3>().0;
        let of = pixels.len() as u64;
        if of == 0 {
            return Self::NONE;
        }
        let channels = [0, 1, 2].map(|channel| Levels::count(pixels, channel));
        let means = channels.each_ref().map(|levels| levels.sum() as f32 / of as f32);
        let spread: u64 = channels.iter().map(|levels| of * levels.squares() - levels.sum().pow(2)).sum();
        let deviation = root_of_share(spread, 3 * of * of) + FLOOR;

        let rings = rings(pixels, size);
        let mut steps = [0; BYTES];
        for (channel, (levels, mean)) in channels.iter().zip(means).enumerate() {
            let step = |level: f32, steps: f32| ((level - mean) * steps / deviation + 128.5).floor() as u8;
            let (tones, inner) = steps[channel * (TONES + RINGS)..][..TONES + RINGS].split_at_mut(TONES);
            for (tone, level) in tones.iter_mut().zip(levels.tones(pixels.len(), mean)) {
                *tone = step(level, TONE_STEPS);
            }
            for (ring, (sums, count)) in inner.iter_mut().zip(rings) {
                *ring = step(if count == 0 { mean } else { sums[channel] as f32 / count as f32 }, RING_STEPS);
            }
        }
        Self { steps, chroma: chroma(pixels) }
    }

    /// Whether two palettes differ by less than `share` of a deviation a tone on average, or by less than a share of
    /// that where either picture has less than `enough` levels of chroma.
    pub(super) fn is_near(&self, other: &Self, share: f32, enough: f32) -> bool {
        let chroma = (f32::from(self.chroma.min(other.chroma)) / enough).min(1.0);
        self.distance(other) < share * chroma
    }

    /// How far apart they are, in deviations of the picture a tone.
    pub(super) fn distance(&self, other: &Self) -> f32 {
        self.apart(other) as f32 / (TONE_STEPS * (3 * TONES) as f32)
    }

    fn apart(&self, other: &Self) -> u32 {
        self.steps.iter().zip(&other.steps).map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
    }
}

/// How often each level occurs in one channel.
struct Levels([u16; 256]);

impl Levels {
    fn count(pixels: &[[u8; 3]], channel: usize) -> Self {
        let mut counts = [0; 256];
        for pixel in pixels {
            // A thumbnail has at most 1,024 positions.
            counts[usize::from(pixel[channel])] += 1;
        }
        Self(counts)
    }

    fn sum(&self) -> u64 {
        self.0.iter().zip(0u64..).map(|(&count, level)| u64::from(count) * level).sum()
    }

    fn squares(&self) -> u64 {
        self.0.iter().zip(0u64..).map(|(&count, level)| u64::from(count) * level * level).sum()
    }

    /// The mean levels of `TONES` equal shares of the `of` pixels, the darkest first; the first of them hold one pixel
    /// more where they do not divide. A share without a pixel has the `mean` of all.
    fn tones(&self, of: usize, mean: f32) -> [f32; TONES] {
        let mut levels = self.0.iter().zip(0u32..).map(|(&count, level)| (u32::from(count), level));
        let (mut left, mut level) = (0, 0);
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
}

/// The sums of each ring's pixels, and how many they are. A ring is an ellipse's: it ends at 3, 5 and 7 eighths of the
/// half sides, and the last holds the corners.
fn rings(pixels: &[[u8; 3]], (width, height): (usize, usize)) -> [([u32; 3], u32); RINGS] {
    // How far from the middle, in half sides squared, times 64 and both sides squared: whole, so that every machine
    // draws the same rings.
    let off = |at: usize, side: usize| (2 * at + 1).abs_diff(side).pow(2) as u64;
    let (across, down) = ((width * width) as u64, (height * height) as u64);
    let ends = [9, 25, 49].map(|end| end * across * down);
    let mut rings = [([0; 3], 0); RINGS];
    for (y, row) in pixels.chunks_exact(width).enumerate() {
        let vertical = off(y, height) * across;
        for (x, pixel) in row.iter().enumerate() {
            let far = 64 * (vertical + off(x, width) * down);
            let ring: usize = ends.iter().map(|&end| usize::from(far >= end)).sum();
            let (sums, count) = &mut rings[ring];
            for (sum, level) in sums.iter_mut().zip(pixel) {
                *sum += u32::from(*level);
            }
            *count += 1;
        }
    }
    rings
}

/// The standard deviation of red less green and of green less blue, in whole levels.
fn chroma(pixels: &[[u8; 3]]) -> u8 {
    let (mut sums, mut squares) = ([0i32; 2], [0i32; 2]);
    for [red, green, blue] in pixels {
        let apart = [i32::from(*red) - i32::from(*green), i32::from(*green) - i32::from(*blue)];
        for i in 0..2 {
            sums[i] += apart[i];
            squares[i] += apart[i] * apart[i];
        }
    }
    let of = pixels.len() as i64;
    let spread: i64 = (0..2).map(|i| of * i64::from(squares[i]) - i64::from(sums[i]).pow(2)).sum();
    root_of_share(spread.unsigned_abs(), (2 * of * of).unsigned_abs()) as u8
}

/// The root of a quotient of whole numbers; the only roundings are those of the quotient and of the root.
fn root_of_share(sum: u64, of: u64) -> f32 {
    ((sum as f64 / of as f64) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of many colours, without any likeness between its halves.
    fn colours(width: usize, height: usize) -> Vec<[u8; 3]> {
        let level = |x: usize, y: usize, c: usize| ((x * x * (c + 3) + y * (29 - 7 * c) + x * y) % 241) as u8;
        (0..width * height).map(|i| [0, 1, 2].map(|c| level(i % width, i / width, c))).collect()
    }

    fn palette(pixels: &[[u8; 3]], width: usize) -> Palette {
        Palette::of(pixels.as_flattened(), (width, pixels.len() / width))
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
        let pixels: Vec<_> = [9u8, 1, 5, 3, 7, 2, 8, 4, 6, 0].iter().map(|&level| [level, 0, 0]).collect();
        let doubled = |pixels: &[[u8; 3]], mean| {
            Levels::count(pixels, 0).tones(pixels.len(), mean).map(|tone| (2.0 * tone) as u32)
        };
        assert_eq!(doubled(&pixels, 4.5), [1, 5, 8, 10, 12, 14, 16, 18]);
        assert_eq!(doubled(&pixels[..2], 5.0), [2, 18, 10, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn rings_hold_every_pixel_once_and_the_middle_comes_first() {
        for (width, height) in [(32, 32), (31, 17), (1, 1), (2, 32)] {
            let rings = rings(&colours(width, height), (width, height));
            assert_eq!(rings.iter().map(|(_, count)| *count as usize).sum::<usize>(), width * height);
        }
        let mut dot = vec![[0; 3]; 1024];
        dot[16 * 32 + 16] = [200, 100, 0];
        let sums = rings(&dot, (32, 32)).map(|(sums, _)| sums);
        assert_eq!(sums, [[200, 100, 0], [0; 3], [0; 3], [0; 3]]);
    }

    #[test]
    fn every_size_has_a_palette() {
        for (width, height) in [(1, 1), (1, 32), (2, 3), (7, 5), (32, 31)] {
            let pixels = colours(width, height);
            assert_eq!(palette(&pixels, width), palette(&pixels, width));
        }
        assert_eq!(Palette::of(&[], (0, 0)), Palette::NONE);
    }
}

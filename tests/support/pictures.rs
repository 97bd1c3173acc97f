//! Drawn pictures, 32 x 32 RGB: like photos in that they are smooth with some texture, unlike each other by seed.

/// Side in pixels.
pub(crate) const SIDE: usize = 32;

/// A picture's bytes, row-major, three to a pixel.
pub(crate) type Picture = Vec<u8>;

/// A picture by its number: a coarse pattern of random colours, drawn out smoothly, with a fine texture on it.
///
/// Two numbers give two pictures far outside each other's suspect radius.
pub(crate) fn photo(seed: u64) -> Picture {
    const KNOTS: usize = 6;
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x51ed_270b);
    let knots: Vec<f32> = (0..KNOTS * KNOTS * 3).map(|_| random.below(240) as f32).collect();
    let mut picture = Vec::with_capacity(SIDE * SIDE * 3);
    for y in 0..SIDE {
        for x in 0..SIDE {
            for channel in 0..3 {
                let at = |x: usize, y: usize| knots[(y * KNOTS + x) * 3 + channel];
                let place = |p: usize| (p * (KNOTS - 1)) as f32 / SIDE as f32;
                let (fx, fy) = (place(x), place(y));
                let (left, top) = (fx as usize, fy as usize);
                let (dx, dy) = (fx.fract(), fy.fract());
                let above = at(left, top) * (1.0 - dx) + at(left + 1, top) * dx;
                let below = at(left, top + 1) * (1.0 - dx) + at(left + 1, top + 1) * dx;
                let smooth = above * (1.0 - dy) + below * dy;
                picture.push(smooth as u8 + random.below(12) as u8);
            }
        }
    }
    picture
}

/// `picture` with its pixel number `at` turned into its negative: a near-copy, another one for each `at`.
pub(crate) fn one_pixel(picture: &Picture, at: usize) -> Picture {
    let mut copy = picture.clone();
    for value in &mut copy[at * 3..at * 3 + 3] {
        *value = 255 - *value;
    }
    copy
}

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A question about the one picture of this number.
pub(crate) fn photo_question(seed: u64) -> refrain::protocol::pb::ModelInferRequest {
    super::kserve::question([&photo(seed)])
}

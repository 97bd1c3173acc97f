//! Values of any number type into levels, at the speed of vector units.

use half::{bf16, f16};

use super::{Datatype, Range, Sizes, Unreadable};

/// What the arithmetic of any common normalisation leaves of a level, in levels, and ten times that.
const NOISE: f32 = 1.0 / 256.0;

/// Levels in the order of the values, and what was lost on the way.
pub(super) struct Read {
    /// One for each value; 0 for alpha.
    pub(super) levels: Vec<u8>,
    /// Some value lay outside 0..=255.
    pub(super) is_clipped: bool,
    /// Some value lay between two levels.
    pub(super) is_rounded: bool,
}

/// `bytes`, of as many values as `sizes` say, as levels; an error where one is not finite, or the type holds no pixels.
pub(super) fn levels(
    datatype: Datatype,
    bytes: &[u8],
    sizes: Sizes,
    bgr: bool,
    range: Range,
) -> Result<Read, Unreadable> {
    let mut seen = Seen::default();
    let channels = Channels::new(datatype, sizes.channels, bgr, range);
    let levels = match datatype {
        Datatype::Uint8 => seen.all::<u8>(bytes, sizes, &channels),
        Datatype::Int8 => seen.all::<i8>(bytes, sizes, &channels),
        Datatype::Uint16 => seen.all::<u16>(bytes, sizes, &channels),
        Datatype::Int16 => seen.all::<i16>(bytes, sizes, &channels),
        Datatype::Uint32 => seen.all::<u32>(bytes, sizes, &channels),
        Datatype::Int32 => seen.all::<i32>(bytes, sizes, &channels),
        Datatype::Uint64 => seen.all::<u64>(bytes, sizes, &channels),
        Datatype::Int64 => seen.all::<i64>(bytes, sizes, &channels),
        Datatype::Fp16 => seen.all::<f16>(bytes, sizes, &channels),
        Datatype::Bf16 => seen.all::<bf16>(bytes, sizes, &channels),
        Datatype::Fp32 => seen.all::<f32>(bytes, sizes, &channels),
        Datatype::Fp64 => seen.all::<f64>(bytes, sizes, &channels),
        Datatype::Bool | Datatype::Bytes => return Err(Unreadable::Datatype(datatype)),
    };
    if seen.not_finite != 0 {
        return Err(Unreadable::NotFinite);
    }
    Ok(Read { levels, is_clipped: seen.beyond != 0, is_rounded: seen.between != 0 })
}

/// What the values span, as the error that says so.
pub(super) fn span(datatype: Datatype, bytes: &[u8]) -> Unreadable {
    match datatype {
        Datatype::Uint8 => span_of::<u8>(bytes),
        Datatype::Int8 => span_of::<i8>(bytes),
        Datatype::Uint16 => span_of::<u16>(bytes),
        Datatype::Int16 => span_of::<i16>(bytes),
        Datatype::Uint32 => span_of::<u32>(bytes),
        Datatype::Int32 => span_of::<i32>(bytes),
        Datatype::Uint64 => span_of::<u64>(bytes),
        Datatype::Int64 => span_of::<i64>(bytes),
        Datatype::Fp16 => span_of::<f16>(bytes),
        Datatype::Bf16 => span_of::<bf16>(bytes),
        Datatype::Fp32 => span_of::<f32>(bytes),
        Datatype::Fp64 => span_of::<f64>(bytes),
        Datatype::Bool | Datatype::Bytes => Unreadable::Datatype(datatype),
    }
}

fn span_of<V: Value>(bytes: &[u8]) -> Unreadable {
    let mut least = f32::INFINITY;
    let mut most = f32::NEG_INFINITY;
    for at in 0..bytes.len() / V::SIZE {
        let value = V::at(bytes, at);
        if !value.is_finite() {
            return Unreadable::NotFinite;
        }
        // The identity, so that what f32 cannot hold becomes its largest number.
        let value = value.pixel(1.0, 0.0).clamp(f32::MIN, f32::MAX);
        least = least.min(value);
        most = most.max(value);
    }
    Unreadable::RangeUnknown { least, most }
}

/// Values converted at a time: a width that every vector unit divides.
const BLOCK: usize = 16;

/// How the values of one block become pixels; one array for each number, as vector units like them.
#[derive(Clone, Copy)]
struct Places {
    scale: [f32; BLOCK],
    offset: [f32; BLOCK],
    /// How far from a level, in levels, a value may lie and still mean that very level.
    noise: f32,
}

/// How each channel's values become pixels.
struct Channels {
    scale: [f32; 4],
    offset: [f32; 4],
    noise: f32,
}

impl Channels {
    fn new(datatype: Datatype, count: usize, bgr: bool, range: Range) -> Self {
        let colour = |channel: usize| if bgr && count > 1 { 2 - channel } else { channel };
        // Neighbours of a wide integer range may lie nearer than the noise of floats: there, only the nearest to a level is it.
        let half_a_step = range.scale.iter().fold(f32::INFINITY, |least, scale| least.min(scale.abs() / 2.0));
        Self {
            // Alpha is none of the pixels: only a value that is not finite is still found.
            scale: std::array::from_fn(|at| if at < 3 { range.scale[colour(at)] } else { 0.0 }),
            offset: std::array::from_fn(|at| if at < 3 { range.offset[colour(at)] } else { 0.0 }),
            noise: if datatype.is_float() { NOISE } else { NOISE.min(half_a_step) },
        }
    }

    /// The places of a block whose values are of these channels.
    fn places(&self, channel: impl Fn(usize) -> usize) -> Places {
        Places {
            scale: std::array::from_fn(|at| self.scale[channel(at)]),
            offset: std::array::from_fn(|at| self.offset[channel(at)]),
            noise: self.noise,
        }
    }
}

/// What a conversion came across; non-zero where it happened. Integers, so that the loop has no branch.
#[derive(Default)]
struct Seen {
    not_finite: u32,
    /// Outside 0..=255.
    beyond: u32,
    /// Between two levels.
    between: u32,
}

impl Seen {
    fn all<V: Value>(&mut self, bytes: &[u8], sizes: Sizes, channels: &Channels) -> Vec<u8> {
        let mut levels = vec![0u8; bytes.len() / V::SIZE];
        if sizes.planar {
            let plane = sizes.plane();
            let planes = bytes.chunks_exact(plane * V::SIZE).zip(levels.chunks_exact_mut(plane));
            for (channel, (source, target)) in planes.enumerate() {
                self.convert::<V>(source, target, &[channels.places(|_| channel)]);
            }
        } else {
            // Three channels stand alike in every third block, one and four in every block.
            let count = sizes.channels;
            let block = |number: usize| channels.places(|at| (number * BLOCK + at) % count);
            let blocks = [block(0), block(1), block(2)];
            self.convert::<V>(bytes, &mut levels, if count == 3 { &blocks } else { &blocks[..1] });
        }
        levels
    }

    /// Little-endian values into levels, rounded to the nearest, block after block with its `places`.
    #[allow(
        clippy::needless_range_loop,
        reason = "the plain loop of a known length is the one that is vectorised"
    )]
    fn convert<V: Value>(&mut self, bytes: &[u8], levels: &mut [u8], places: &[Places]) {
        let whole = levels.len() / BLOCK * BLOCK;
        let (head, tail) = levels.split_at_mut(whole);
        let blocks = bytes.chunks_exact(V::SIZE * BLOCK).zip(head.chunks_exact_mut(BLOCK));
        for ((source, target), places) in blocks.zip(places.iter().cycle()) {
            for at in 0..BLOCK {
                let value = V::at(source, at);
                target[at] = self.level(value, places.scale[at], places.offset[at], places.noise);
            }
        }
        let places = &places[whole / BLOCK % places.len()];
        for (at, target) in tail.iter_mut().enumerate() {
            let value = V::at(bytes, whole + at);
            *target = self.level(value, places.scale[at], places.offset[at], places.noise);
        }
    }

    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "the loop around it is vectorised only when it sees through this"
    )]
    fn level<V: Value>(&mut self, value: V, scale: f32, offset: f32, noise: f32) -> u8 {
        // 2^23 pushes the fraction out of the mantissa: adding it rounds, and the low byte is the level.
        const ROUND: f32 = 8_388_608.0;
        let pixel = value.pixel(scale, offset);
        self.not_finite |= u32::from(!value.is_finite());
        self.beyond |= u32::from(pixel < -0.5) | u32::from(pixel > 255.5);
        let within = if pixel > 0.0 { pixel } else { 0.0 };
        let within = if within < 255.0 { within } else { 255.0 };
        let rounded = within + ROUND;
        self.between |= u32::from((within - (rounded - ROUND)).abs() > value.noise(scale, noise));
        rounded.to_bits() as u8
    }
}

/// A number type of the protocol, little-endian.
trait Value: Copy {
    /// Bytes of one.
    const SIZE: usize;
    /// The value number `at` of `bytes`.
    fn at(bytes: &[u8], at: usize) -> Self;
    /// `self * scale + offset`, precise to a thousandth of a level wherever that is between 0 and 255.
    fn pixel(self, scale: f32, offset: f32) -> f32;
    /// Whether it is a number, and not an infinite one.
    fn is_finite(self) -> bool {
        true
    }
    /// `noise`, and what the type itself may have rounded away of a normalised level, in levels, where that is more.
    fn noise(self, _scale: f32, noise: f32) -> f32 {
        noise
    }
}

/// The body of [`Value`] for one type: how its bytes are read, and how its pixel is computed.
macro_rules! value {
    ($type:ty, |$value:ident, $scale:ident, $offset:ident| $pixel:expr $(, $($more:item)*)?) => {
        impl Value for $type {
            const SIZE: usize = size_of::<$type>();

            #[inline(always)]
            #[allow(clippy::inline_always, reason = "as Seen::level")]
            fn at(bytes: &[u8], at: usize) -> Self {
                let mut value = [0; size_of::<$type>()];
                value.copy_from_slice(&bytes[at * Self::SIZE..(at + 1) * Self::SIZE]);
                <$type>::from_le_bytes(value)
            }

            #[inline(always)]
            #[allow(clippy::inline_always, reason = "as Seen::level")]
            fn pixel(self, $scale: f32, $offset: f32) -> f32 {
                let $value = self;
                $pixel
            }

            $($($more)*)?
        }
    };
}

/// A float says itself whether it is finite.
macro_rules! finite {
    ($type:ty) => {
        #[inline(always)]
        #[allow(clippy::inline_always, reason = "as Seen::level")]
        fn is_finite(self) -> bool {
            <$type>::is_finite(self)
        }
    };
}

value!(u8, |value, scale, offset| f32::from(value) * scale + offset);
value!(i8, |value, scale, offset| f32::from(value) * scale + offset);
value!(u16, |value, scale, offset| f32::from(value) * scale + offset);
value!(i16, |value, scale, offset| f32::from(value) * scale + offset);
// What f32 cannot hold is multiplied as f64. What that cannot hold either is no level but under a scale below a billionth.
value!(u32, |value, scale, offset| wide(f64::from(value), scale, offset));
value!(i32, |value, scale, offset| wide(f64::from(value), scale, offset));
value!(u64, |value, scale, offset| wide(value as f64, scale, offset));
value!(i64, |value, scale, offset| wide(value as f64, scale, offset));
value!(
    f16,
    |value, scale, offset| widened(value) * scale + offset,
    finite!(f16);

    /// Half a unit in the last place more, 2^-11 of the power of two below: the value nearest to a level lies within it, and
    /// its neighbours do not, but where both are as near. At 1 it is 0.06 levels of 0..1.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Seen::level")]
    fn noise(self, scale: f32, noise: f32) -> f32 {
        const EXPONENT: u32 = 0x7f80_0000;
        const LEAST: u32 = (127 - 14) << 23;
        let power = (widened(self).to_bits() & EXPONENT).max(LEAST);
        noise + f32::from_bits(power - (11 << 23)) * scale.abs()
    }
);
// A bf16 is the upper half of an f32.
value!(bf16, |value, scale, offset| f32::from_bits(u32::from(value.to_bits()) << 16) * scale + offset, finite!(bf16););
value!(f32, |value, scale, offset| value * scale + offset, finite!(f32););
value!(f64, |value, scale, offset| wide(value, scale, offset), finite!(f64););

#[inline(always)]
#[allow(clippy::inline_always, reason = "as Seen::level")]
fn wide(value: f64, scale: f32, offset: f32) -> f32 {
    (value * f64::from(scale) + f64::from(offset)) as f32
}

/// A finite f16 as f32, without the branches of `half`: its bits in their places, and the exponents' difference as a factor.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as Seen::level")]
fn widened(value: f16) -> f32 {
    const FACTOR: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let bits = u32::from(value.to_bits());
    let size = f32::from_bits((bits & 0x7fff) << 13) * FACTOR;
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

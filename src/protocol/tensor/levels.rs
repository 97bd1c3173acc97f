//! Values of any number type into levels, at the speed of vector units.

use fearless_simd::{Level, dispatch};
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
    if matches!(datatype, Datatype::Bool | Datatype::Bytes) {
        return Err(Unreadable::Datatype(datatype));
    }
    let channels = Channels::new(datatype, sizes.channels, bgr, range);
    // Compiled once for each kind of vector unit, and the best that this machine has is taken.
    let (levels, seen) =
        dispatch!(Level::new(), _simd => Seen::by_datatype(datatype, bytes, sizes, &channels));
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
    for value in bytes.chunks_exact(V::SIZE).map(V::of) {
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

/// Values converted at a time: a multiple of one, three and four channels, and of every vector unit's width.
const BLOCK: usize = 192;

/// How the values of one block become pixels; one array for each number, as vector units like them.
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

/// 2^23 pushes the fraction out of the mantissa: adding it rounds, and the low byte is the level.
const ROUND: f32 = 8_388_608.0;

impl Seen {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Seen::convert")]
    fn by_datatype(datatype: Datatype, bytes: &[u8], sizes: Sizes, channels: &Channels) -> (Vec<u8>, Self) {
        match datatype {
            Datatype::Int8 => Self::all::<i8>(bytes, sizes, channels),
            Datatype::Uint16 => Self::all::<u16>(bytes, sizes, channels),
            Datatype::Int16 => Self::all::<i16>(bytes, sizes, channels),
            Datatype::Uint32 => Self::all::<u32>(bytes, sizes, channels),
            Datatype::Int32 => Self::all::<i32>(bytes, sizes, channels),
            Datatype::Uint64 => Self::all::<u64>(bytes, sizes, channels),
            Datatype::Int64 => Self::all::<i64>(bytes, sizes, channels),
            Datatype::Fp16 => Self::all::<f16>(bytes, sizes, channels),
            Datatype::Bf16 => Self::all::<bf16>(bytes, sizes, channels),
            Datatype::Fp32 => Self::all::<f32>(bytes, sizes, channels),
            Datatype::Fp64 => Self::all::<f64>(bytes, sizes, channels),
            // The two last hold no pixels and do not come here.
            Datatype::Uint8 | Datatype::Bool | Datatype::Bytes => Self::all::<u8>(bytes, sizes, channels),
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Seen::convert")]
    fn all<V: Value>(bytes: &[u8], sizes: Sizes, channels: &Channels) -> (Vec<u8>, Self) {
        let mut seen = Self::default();
        let mut levels = vec![0u8; bytes.len() / V::SIZE];
        if sizes.planar {
            let plane = sizes.plane();
            let planes = bytes.chunks_exact(plane * V::SIZE).zip(levels.chunks_exact_mut(plane));
            for (channel, (source, target)) in planes.enumerate() {
                seen.convert::<V>(source, target, &channels.places(|_| channel));
            }
        } else {
            let count = sizes.channels;
            seen.convert::<V>(bytes, &mut levels, &channels.places(|at| at % count));
        }
        (levels, seen)
    }

    /// Little-endian values into levels, rounded to the nearest, block after block.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "only what is seen through is compiled for each kind of vector unit"
    )]
    fn convert<V: Value>(&mut self, bytes: &[u8], levels: &mut [u8], places: &Places) {
        // Nearly all pictures are whole levels: until a value is found that is none, nothing else is looked for.
        let mut whole = true;
        for (source, target) in bytes.chunks(V::SIZE * BLOCK).zip(levels.chunks_mut(BLOCK)) {
            whole = whole && are_levels::<V>(source, target, places);
            if !whole {
                self.round::<V>(source, target, places);
            }
        }
    }

    /// One block, whatever its values are.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as Seen::convert")]
    fn round<V: Value>(&mut self, source: &[u8], target: &mut [u8], places: &Places) {
        let Self { mut not_finite, mut beyond, mut between } = *self;
        let values = source.chunks_exact(V::SIZE).map(V::of);
        for (((level, value), &scale), &offset) in
            target.iter_mut().zip(values).zip(&places.scale).zip(&places.offset)
        {
            let pixel = value.pixel(scale, offset);
            not_finite |= u32::from(!value.is_finite());
            beyond |= u32::from(pixel < -0.5) | u32::from(pixel > 255.5);
            let within = if pixel > 0.0 { pixel } else { 0.0 };
            let within = if within < 255.0 { within } else { 255.0 };
            let rounded = within + ROUND;
            between |= u32::from((within - (rounded - ROUND)).abs() > value.noise(scale, places.noise));
            *level = rounded.to_bits() as u8;
        }
        *self = Self { not_finite, beyond, between };
    }
}

/// One block of values that are all finite and levels: what [`Seen::round`] makes of such ones, with half the arithmetic. False
/// where one may be something else; what is in `target` then is worth nothing.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as Seen::convert")]
fn are_levels<V: Value>(source: &[u8], target: &mut [u8], places: &Places) -> bool {
    const LEVEL: u32 = 0xff;
    // The bits in which a sum differs from `ROUND`: those of the level alone, where it is one.
    let (mut bits, mut odd) = (0, 0);
    let values = source.chunks_exact(V::SIZE).map(V::of);
    for (((level, value), &scale), &offset) in
        target.iter_mut().zip(values).zip(&places.scale).zip(&places.offset)
    {
        let pixel = value.pixel(scale, offset);
        let rounded = pixel + ROUND;
        bits |= rounded.to_bits() ^ ROUND.to_bits();
        // Not so of NaN either.
        let near = (pixel - (rounded - ROUND)).abs() <= value.noise(scale, places.noise);
        odd |= u32::from(!(near & value.is_finite()));
        *level = rounded.to_bits() as u8;
    }
    odd == 0 && bits <= LEVEL
}

/// A number type of the protocol, little-endian.
trait Value: Copy {
    /// Bytes of one.
    const SIZE: usize;
    /// The value of so many bytes.
    fn of(bytes: &[u8]) -> Self;
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
            #[allow(clippy::inline_always, reason = "as Seen::convert")]
            fn of(bytes: &[u8]) -> Self {
                let mut value = [0; size_of::<$type>()];
                value.copy_from_slice(bytes);
                <$type>::from_le_bytes(value)
            }

            #[inline(always)]
            #[allow(clippy::inline_always, reason = "as Seen::convert")]
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
        #[allow(clippy::inline_always, reason = "as Seen::convert")]
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
    #[allow(clippy::inline_always, reason = "as Seen::convert")]
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
#[allow(clippy::inline_always, reason = "as Seen::convert")]
fn wide(value: f64, scale: f32, offset: f32) -> f32 {
    (value * f64::from(scale) + f64::from(offset)) as f32
}

/// A finite f16 as f32, without the branches of `half`: its bits in their places, and the exponents' difference as a factor.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as Seen::convert")]
fn widened(value: f16) -> f32 {
    const FACTOR: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let bits = u32::from(value.to_bits());
    let size = f32::from_bits((bits & 0x7fff) << 13) * FACTOR;
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = Result<(Vec<u8>, bool, bool), Unreadable>;

    /// What every block of a tensor is found to be by [`Seen::round`] alone, without the best vector unit.
    fn slowly<V: Value>(bytes: &[u8], sizes: Sizes, channels: &Channels) -> Found {
        let (mut seen, mut levels) = (Seen::default(), vec![0; bytes.len() / V::SIZE]);
        let (plane, count) = (sizes.plane(), sizes.channels);
        let places: Vec<Places> = (0..count).map(|channel| channels.places(|_| channel)).collect();
        for (at, (value, level)) in bytes.chunks_exact(V::SIZE).zip(&mut levels).enumerate() {
            let channel = if sizes.planar { at / plane } else { at % count };
            seen.round::<V>(value, std::slice::from_mut(level), &places[channel]);
        }
        if seen.not_finite != 0 {
            return Err(Unreadable::NotFinite);
        }
        Ok((levels, seen.beyond != 0, seen.between != 0))
    }

    /// Both ways find the same in `bytes`, in every layout and range.
    fn agree<V: Value>(datatype: Datatype, bytes: &[u8]) {
        let values = bytes.len() / V::SIZE;
        for (channels, planar, bgr) in [
            (1, false, false),
            (3, false, false),
            (3, false, true),
            (3, true, false),
            (4, false, false),
            (4, true, true),
        ] {
            let sizes = Sizes { width: (values / channels) as u32, height: 1, channels, planar };
            let bytes = &bytes[..sizes.plane() * channels * V::SIZE];
            for (name, range) in Range::NAMED {
                let expected = slowly::<V>(bytes, sizes, &Channels::new(datatype, channels, bgr, range));
                let found = levels(datatype, bytes, sizes, bgr, range)
                    .map(|read| (read.levels, read.is_clipped, read.is_rounded));
                assert_eq!(found, expected, "{datatype}, {name}, {channels} channels, planar: {planar}");
            }
        }
    }

    /// Values that are levels in every range that has them, one of them odd, wherever it stands; unaligned too.
    #[allow(clippy::needless_pass_by_value, reason = "shorter to call")]
    fn check<V: Value, const N: usize>(datatype: Datatype, of: impl Fn(f64) -> [u8; N], odd: Vec<[u8; N]>) {
        const VALUES: usize = 3 * BLOCK + 60;
        for scale in [1.0, 1.0 / 255.0] {
            let whole: Vec<[u8; N]> = (0..VALUES).map(|at| of((at % 256) as f64 * scale)).collect();
            agree::<V>(datatype, whole.as_flattened());
            for odd in &odd {
                for at in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 7, 3 * BLOCK - 1, 3 * BLOCK, VALUES - 1] {
                    let mut values = whole.clone();
                    values[at] = *odd;
                    let unaligned = [&[0], values.as_flattened()].concat();
                    agree::<V>(datatype, &unaligned[1..]);
                }
            }
        }
    }

    /// Levels, what is nearly one, what lies beyond, and what is hard for floats.
    const ODD: [f64; 25] = [
        -0.0,
        -1e-7,
        1e-9,
        0.003,
        0.0039,
        0.004,
        -0.004,
        -0.4,
        -0.5,
        -0.6,
        -1.0,
        0.5,
        1.5,
        127.5,
        254.996,
        255.003,
        255.4,
        255.6,
        256.0,
        300.0,
        511.0,
        8_388_608.0,
        -8_388_607.0,
        -8_388_480.0,
        1e30,
    ];

    #[test]
    fn the_quick_way_finds_what_the_slow_one_finds() {
        let odd = || ODD.into_iter().chain([f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
        let both = || odd().chain(odd().map(|value| value / 255.0));
        let f32s = |value: f64| (value as f32).to_le_bytes();
        check::<f32, 4>(Datatype::Fp32, f32s, both().map(f32s).collect());
        check::<f64, 8>(Datatype::Fp64, f64::to_le_bytes, both().map(f64::to_le_bytes).collect());
        let f16s = |value: f64| f16::from_f64(value).to_le_bytes();
        check::<f16, 2>(Datatype::Fp16, f16s, both().map(f16s).collect());
        let bf16s = |value: f64| bf16::from_f64(value).to_le_bytes();
        check::<bf16, 2>(Datatype::Bf16, bf16s, both().map(bf16s).collect());
        // A float becomes the nearest integer that the type has.
        check::<u8, 1>(Datatype::Uint8, |value| [value as u8], odd().map(|value| [value as u8]).collect());
        let i8s = |value: f64| (value as i8).to_le_bytes();
        check::<i8, 1>(Datatype::Int8, i8s, odd().map(i8s).collect());
        let u16s = |value: f64| (value as u16).to_le_bytes();
        check::<u16, 2>(Datatype::Uint16, u16s, odd().map(u16s).collect());
        let i16s = |value: f64| (value as i16).to_le_bytes();
        check::<i16, 2>(Datatype::Int16, i16s, odd().map(i16s).collect());
        let u32s = |value: f64| (value as u32).to_le_bytes();
        check::<u32, 4>(Datatype::Uint32, u32s, odd().map(u32s).collect());
        let i32s = |value: f64| (value as i32).to_le_bytes();
        check::<i32, 4>(Datatype::Int32, i32s, odd().map(i32s).collect());
        let u64s = |value: f64| (value as u64).to_le_bytes();
        check::<u64, 8>(Datatype::Uint64, u64s, odd().map(u64s).collect());
        let i64s = |value: f64| (value as i64).to_le_bytes();
        check::<i64, 8>(Datatype::Int64, i64s, odd().map(i64s).collect());
    }

    #[test]
    fn any_bytes_are_read_alike_both_ways() {
        let mut state = 7u64;
        let mut drawn = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        for _ in 0..20 {
            let bytes: Vec<u8> = (0..8 * (BLOCK + 33)).map(|_| drawn()).collect();
            agree::<u8>(Datatype::Uint8, &bytes);
            agree::<u16>(Datatype::Uint16, &bytes);
            agree::<i32>(Datatype::Int32, &bytes);
            agree::<i64>(Datatype::Int64, &bytes);
            agree::<f16>(Datatype::Fp16, &bytes);
            agree::<bf16>(Datatype::Bf16, &bytes);
            agree::<f32>(Datatype::Fp32, &bytes);
            agree::<f64>(Datatype::Fp64, &bytes);
        }
    }
}

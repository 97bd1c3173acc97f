//! Data type, shape, layout and bytes into `Image`s, by the model server's own rules.

use std::borrow::Cow;

use bytes::Bytes;

use super::pb;
use crate::judgment::{Image, ImageError};

/// The element types of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the protocol's own names")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    /// The type written as `name` in a request; exact, as the server reads it.
    pub fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "BOOL" => Self::Bool,
            "UINT8" => Self::Uint8,
            "UINT16" => Self::Uint16,
            "UINT32" => Self::Uint32,
            "UINT64" => Self::Uint64,
            "INT8" => Self::Int8,
            "INT16" => Self::Int16,
            "INT32" => Self::Int32,
            "INT64" => Self::Int64,
            "FP16" => Self::Fp16,
            "BF16" => Self::Bf16,
            "FP32" => Self::Fp32,
            "FP64" => Self::Fp64,
            "BYTES" => Self::Bytes,
            _ => return None,
        })
    }

    /// The type of a model configuration.
    pub fn of_config(datatype: pb::DataType) -> Option<Self> {
        Some(match datatype {
            pb::DataType::TypeInvalid => return None,
            pb::DataType::TypeBool => Self::Bool,
            pb::DataType::TypeUint8 => Self::Uint8,
            pb::DataType::TypeUint16 => Self::Uint16,
            pb::DataType::TypeUint32 => Self::Uint32,
            pb::DataType::TypeUint64 => Self::Uint64,
            pb::DataType::TypeInt8 => Self::Int8,
            pb::DataType::TypeInt16 => Self::Int16,
            pb::DataType::TypeInt32 => Self::Int32,
            pb::DataType::TypeInt64 => Self::Int64,
            pb::DataType::TypeFp16 => Self::Fp16,
            pb::DataType::TypeFp32 => Self::Fp32,
            pb::DataType::TypeFp64 => Self::Fp64,
            pb::DataType::TypeString => Self::Bytes,
            pb::DataType::TypeBf16 => Self::Bf16,
        })
    }

    /// Bytes of one element; none for BYTES, whose elements say their own length.
    pub fn size(self) -> Option<usize> {
        Some(match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => 2,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 4,
            Self::Uint64 | Self::Int64 | Self::Fp64 => 8,
            Self::Bytes => return None,
        })
    }
}

/// The order of a picture's dimensions; the batch dimension, where there is one, stands before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Layout {
    /// Height, width, channels.
    #[serde(rename = "NHWC", alias = "HWC")]
    Nhwc,
    /// Channels, height, width.
    #[serde(rename = "NCHW", alias = "CHW")]
    Nchw,
}

impl Layout {
    /// The layout that `dims` (three of them) suggest: three channels last or first, else one or four, last before first.
    pub fn guess(dims: &[i64]) -> Option<Self> {
        let &[first, _, last] = dims else { return None };
        match (first, last) {
            (_, 3) => Some(Self::Nhwc),
            (3, _) => Some(Self::Nchw),
            (_, 1 | 4) => Some(Self::Nhwc),
            (1 | 4, _) => Some(Self::Nchw),
            _ => None,
        }
    }

    fn sizes(self, dims: [i64; 3]) -> Sizes {
        let [height, width, channels] = match self {
            Self::Nhwc => dims,
            Self::Nchw => [dims[1], dims[2], dims[0]],
        };
        Sizes { height, width, channels }
    }
}

struct Sizes {
    height: i64,
    width: i64,
    channels: i64,
}

/// How values become pixels: `pixel = value * scale + offset`, per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Levels per unit.
    pub scale: [f32; 3],
    /// The level of the value 0.
    pub offset: [f32; 3],
}

impl Range {
    /// Values are levels.
    pub const LEVELS: Self = Self { scale: [1.0; 3], offset: [0.0; 3] };
    /// 0 is black, 1 is white.
    pub const UNIT: Self = Self { scale: [255.0; 3], offset: [0.0; 3] };
    /// -1 is black, 1 is white.
    pub const SIGNED: Self = Self { scale: [127.5; 3], offset: [127.5; 3] };
    /// Less the ImageNet mean, divided by its deviation (red, green, blue: 0.485 0.456 0.406; 0.229 0.224 0.225).
    pub const IMAGENET: Self = Self {
        scale: [0.229 * 255.0, 0.224 * 255.0, 0.225 * 255.0],
        offset: [0.485 * 255.0, 0.456 * 255.0, 0.406 * 255.0],
    };

    /// The closed list, as settings write it.
    pub const NAMED: [(&'static str, Self); 4] = [
        ("0..255", Self::LEVELS),
        ("0..1", Self::UNIT),
        ("-1..1", Self::SIGNED),
        ("imagenet", Self::IMAGENET),
    ];

    /// The range of the closed list that values between `least` and `most` fit best.
    ///
    /// ImageNet-normalised values lie between -2.2 and 2.7, so what goes beyond +-1 without reaching 3 is taken for them.
    pub fn guess(least: f32, most: f32) -> (&'static str, Self) {
        let at = match (least, most) {
            (_, most) if most > 3.0 => 0,
            (least, most) if least < -1.001 || most > 1.001 => 3,
            (least, _) if least < -0.001 => 2,
            _ => 1,
        };
        Self::NAMED[at]
    }
}

/// How a model's pictures are read; what settings and signature together decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// None: told from the shape.
    pub layout: Option<Layout>,
    /// Channels stand in the order blue, green, red.
    pub bgr: bool,
    /// None: not known yet.
    pub range: Option<Range>,
}

/// Why a tensor of well-formed bytes is no picture that we can read.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Unreadable {
    /// A type that holds no pixels, or whose pixels are not read yet.
    #[error("expected UINT8 or FP32 pixels, found {0:?}")]
    Datatype(Datatype),
    /// Not the dimensions of a picture.
    #[error("expected the dimensions of a picture with 1 or 3 channels, found {0:?}")]
    Shape(Vec<i64>),
    /// Too large, or without a pixel.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Not a number, or infinite.
    #[error("expected finite values, found NaN or infinity")]
    NotFinite,
    /// What the values mean is not known yet; they span `least` to `most`.
    #[error("the value range of the model is not known yet")]
    RangeUnknown {
        /// The smallest value.
        least: f32,
        /// The largest value.
        most: f32,
    },
}

/// One input with its elements as raw little-endian bytes, whichever way they travelled.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions of one row.
    pub dims: Vec<i64>,
    /// Elements of all rows.
    pub data: Bytes,
}

impl Tensor {
    /// Row `row` of `rows` as a picture.
    ///
    /// Shares the tensor's memory where its bytes are already RGB levels, height x width x 3. Cost: `tensor` in `benches/judgment.rs`.
    /// Values between levels are rounded and values outside the range clipped; either marks the picture ([`Image::rounded`],
    /// [`Image::clipped`]), at the cost of hashing its bytes. Blind to differences of less than half a level, but for the mark.
    pub fn image(&self, row: usize, rows: usize, reading: Reading) -> Result<Image<'_>, Unreadable> {
        let Ok(dims) = <[i64; 3]>::try_from(&self.dims[..]) else {
            return Err(Unreadable::Shape(self.dims.clone()));
        };
        let layout = reading.layout.or_else(|| Layout::guess(&dims)).unwrap_or(Layout::Nhwc);
        let sizes = layout.sizes(dims);
        let (Ok(height), Ok(width), 1 | 3) =
            (u32::try_from(sizes.height), u32::try_from(sizes.width), sizes.channels)
        else {
            return Err(Unreadable::Shape(self.dims.clone()));
        };
        if height == 0 || width == 0 {
            return Err(Unreadable::Image(ImageError::Side { width, height }));
        }
        let length = self.data.len() / rows;
        let bytes = &self.data[row * length..(row + 1) * length];
        let channels = sizes.channels as usize;
        match self.datatype {
            Datatype::Uint8 => {
                let range = reading.range.unwrap_or(Range::LEVELS);
                if range == Range::LEVELS {
                    let levels = interleave(Cow::Borrowed(bytes), layout, channels, reading.bgr);
                    return Ok(Image::new(width, height, levels)?);
                }
                let values: Vec<u8> = bytes.iter().flat_map(|&byte| f32::from(byte).to_le_bytes()).collect();
                from_floats(&values, width, height, layout, channels, reading.bgr, range)
            }
            Datatype::Fp32 => match reading.range {
                Some(range) => from_floats(bytes, width, height, layout, channels, reading.bgr, range),
                None => Err(span(bytes)),
            },
            other => Err(Unreadable::Datatype(other)),
        }
    }
}

fn from_floats(
    bytes: &[u8],
    width: u32,
    height: u32,
    layout: Layout,
    channels: usize,
    bgr: bool,
    range: Range,
) -> Result<Image<'static>, Unreadable> {
    let order = |channel: usize| if bgr && channels == 3 { 2 - channel } else { channel };
    let scale: [f32; 3] = std::array::from_fn(|channel| range.scale[order(channel)]);
    let offset: [f32; 3] = std::array::from_fn(|channel| range.offset[order(channel)]);
    let mut levels = vec![0u8; bytes.len() / 4];
    let mut seen = Seen::default();
    match layout {
        Layout::Nhwc if channels == 3 => {
            // Twelve values repeat the three channels four times, a width that every vector unit divides.
            let scale: [f32; 12] = std::array::from_fn(|at| scale[at % 3]);
            let offset: [f32; 12] = std::array::from_fn(|at| offset[at % 3]);
            seen.convert(bytes, &mut levels, &scale, &offset);
        }
        Layout::Nhwc => seen.convert(bytes, &mut levels, &[scale[0]; 16], &[offset[0]; 16]),
        Layout::Nchw => {
            let plane = width as usize * height as usize;
            let planes = bytes.chunks_exact(plane * 4).zip(levels.chunks_exact_mut(plane));
            for (channel, (source, target)) in planes.enumerate() {
                seen.convert(source, target, &[scale[channel]; 16], &[offset[channel]; 16]);
            }
        }
    }
    if seen.not_finite != 0 {
        return Err(Unreadable::NotFinite);
    }
    let image = Image::new(width, height, interleave(Cow::Owned(levels), layout, channels, bgr))?;
    Ok(match seen {
        Seen { beyond: 0, between: 0, .. } => image,
        Seen { beyond: 0, .. } => image.rounded(bytes),
        _ => image.clipped(bytes),
    })
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
    /// Little-endian floats into levels, rounded to the nearest; `N` values at a time with their own scale and offset.
    fn convert<const N: usize>(
        &mut self,
        bytes: &[u8],
        levels: &mut [u8],
        scale: &[f32; N],
        offset: &[f32; N],
    ) {
        let whole = levels.len() / N * N;
        let (head, tail) = levels.split_at_mut(whole);
        for (source, target) in bytes.chunks_exact(4 * N).zip(head.chunks_exact_mut(N)) {
            for at in 0..N {
                let value = float(source, at);
                target[at] = self.level(value, scale[at], offset[at]);
            }
        }
        for (at, target) in tail.iter_mut().enumerate() {
            *target = self.level(float(bytes, whole + at), scale[at], offset[at]);
        }
    }

    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "the loop around it is vectorised only when it sees through this"
    )]
    fn level(&mut self, value: f32, scale: f32, offset: f32) -> u8 {
        const EXPONENT: u32 = 0x7f80_0000;
        // 2^23 pushes the fraction out of the mantissa: adding it rounds, and the low byte is the level.
        const ROUND: f32 = 8_388_608.0;
        // What the arithmetic of any common normalisation leaves of a level, in levels, and ten times that.
        const NOISE: f32 = 1.0 / 256.0;
        let pixel = value * scale + offset;
        self.not_finite |= u32::from(pixel.to_bits() & EXPONENT == EXPONENT);
        self.beyond |= u32::from(pixel < -0.5) | u32::from(pixel > 255.5);
        let within = if pixel > 0.0 { pixel } else { 0.0 };
        let within = if within < 255.0 { within } else { 255.0 };
        let rounded = within + ROUND;
        self.between |= u32::from((within - (rounded - ROUND)).abs() > NOISE);
        rounded.to_bits() as u8
    }
}

fn float(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]])
}

fn span(bytes: &[u8]) -> Unreadable {
    let mut least = f32::INFINITY;
    let mut most = f32::NEG_INFINITY;
    for at in 0..bytes.len() / 4 {
        let value = float(bytes, at);
        if !value.is_finite() {
            return Unreadable::NotFinite;
        }
        least = least.min(value);
        most = most.max(value);
    }
    Unreadable::RangeUnknown { least, most }
}

/// Levels in whatever layout into RGB, height x width x 3; grey becomes three equal channels.
fn interleave(levels: Cow<'_, [u8]>, layout: Layout, channels: usize, bgr: bool) -> Cow<'_, [u8]> {
    if channels == 1 {
        return levels.iter().flat_map(|&level| [level; 3]).collect::<Vec<u8>>().into();
    }
    match (layout, bgr) {
        (Layout::Nhwc, false) => levels,
        (Layout::Nhwc, true) => {
            let mut levels = levels.into_owned();
            for pixel in levels.chunks_exact_mut(3) {
                pixel.swap(0, 2);
            }
            levels.into()
        }
        (Layout::Nchw, bgr) => {
            let plane = levels.len() / 3;
            let (first, rest) = levels.split_at(plane);
            let (second, third) = rest.split_at(plane);
            let (red, blue) = if bgr { (third, first) } else { (first, third) };
            let mut rgb = vec![0u8; levels.len()];
            for (pixel, ((&red, &green), &blue)) in
                rgb.chunks_exact_mut(3).zip(red.iter().zip(second).zip(blue))
            {
                pixel.copy_from_slice(&[red, green, blue]);
            }
            rgb.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BGR: bool = true;

    fn reading(layout: Layout, bgr: bool, range: Range) -> Reading {
        Reading { layout: Some(layout), bgr, range: Some(range) }
    }

    /// Numbers without order, the same on every machine.
    fn drawn(seed: u64) -> impl FnMut() -> u8 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }
    }

    /// `rgb` as a tensor of this form: every value placed one by one, the way the words say.
    fn sent(rgb: &[[u8; 3]], (width, height): (usize, usize), datatype: Datatype, how: Reading) -> Tensor {
        let range = how.range.unwrap();
        let mut data = Vec::new();
        let mut put = |x: usize, y: usize, place: usize| {
            let colour = if how.bgr { 2 - place } else { place };
            let level = rgb[y * width + x][colour];
            match datatype {
                Datatype::Uint8 => data.push(level),
                _ => {
                    let value = (f32::from(level) - range.offset[colour]) / range.scale[colour];
                    data.extend(value.to_le_bytes());
                }
            }
        };
        let layout = how.layout.unwrap();
        let (outer, inner) = if layout == Layout::Nhwc { (1, 3) } else { (3, 1) };
        for plane in 0..outer {
            for y in 0..height {
                for x in 0..width {
                    (0..inner).for_each(|channel| put(x, y, plane + channel));
                }
            }
        }
        let (width, height) = (width as i64, height as i64);
        let dims = if layout == Layout::Nhwc { vec![height, width, 3] } else { vec![3, height, width] };
        Tensor { datatype, dims, data: data.into() }
    }

    #[test]
    fn one_picture_in_every_form_is_the_same_picture() {
        for (width, height) in [(1, 1), (2, 1), (5, 7), (32, 32), (33, 17)] {
            let mut number = drawn((width * height) as u64);
            let rgb: Vec<[u8; 3]> = (0..width * height).map(|_| [(); 3].map(|()| number())).collect();
            for layout in [Layout::Nhwc, Layout::Nchw] {
                for bgr in [false, BGR] {
                    let levels = reading(layout, bgr, Range::LEVELS);
                    let mut forms = vec![(Datatype::Uint8, levels)];
                    forms
                        .extend(Range::NAMED.map(|(_, range)| (Datatype::Fp32, reading(layout, bgr, range))));
                    for (datatype, how) in forms {
                        let tensor = sent(&rgb, (width, height), datatype, how);
                        let image = tensor.image(0, 1, how).unwrap();
                        assert_eq!((image.width() as usize, image.height() as usize), (width, height));
                        assert_eq!(image.rgb(), rgb.as_flattened(), "{datatype:?}, {how:?}");
                        assert!(!image.is_clipped(), "{datatype:?}, {how:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn each_row_is_its_own_picture() {
        let mut number = drawn(4);
        let rgb: Vec<[u8; 3]> = (0..3 * 35).map(|_| [(); 3].map(|()| number())).collect();
        for (datatype, layout, range) in [
            (Datatype::Uint8, Layout::Nhwc, Range::LEVELS),
            (Datatype::Fp32, Layout::Nchw, Range::SIGNED),
            (Datatype::Fp32, Layout::Nhwc, Range::IMAGENET),
        ] {
            let how = reading(layout, false, range);
            let rows: Vec<Tensor> = rgb.chunks(35).map(|row| sent(row, (5, 7), datatype, how)).collect();
            let data: Vec<u8> = rows.iter().flat_map(|row| row.data.to_vec()).collect();
            let batch = Tensor { data: data.into(), ..rows[0].clone() };
            for (row, expected) in rgb.chunks(35).enumerate() {
                assert_eq!(batch.image(row, 3, how).unwrap().rgb(), expected.as_flattened());
            }
        }
    }

    #[test]
    fn grey_is_three_equal_channels() {
        let levels: Vec<u8> = (0..12).map(|at| at * 20).collect();
        let expected: Vec<u8> = levels.iter().flat_map(|&level| [level; 3]).collect();
        let floats: Vec<u8> =
            levels.iter().flat_map(|&level| (f32::from(level) / 255.0).to_le_bytes()).collect();
        for (layout, dims) in [(Layout::Nhwc, vec![3, 4, 1]), (Layout::Nchw, vec![1, 3, 4])] {
            for bgr in [false, BGR] {
                let of = |datatype, data: &[u8]| Tensor {
                    datatype,
                    dims: dims.clone(),
                    data: Bytes::copy_from_slice(data),
                };
                let raw = of(Datatype::Uint8, &levels);
                let image = raw.image(0, 1, reading(layout, bgr, Range::LEVELS)).unwrap();
                assert_eq!((image.rgb(), image.width(), image.height()), (&expected[..], 4, 3));
                let float = of(Datatype::Fp32, &floats);
                assert_eq!(float.image(0, 1, reading(layout, bgr, Range::UNIT)).unwrap().rgb(), expected);
            }
        }
    }

    #[test]
    fn rgb_bytes_are_shared_and_not_copied() {
        let tensor =
            Tensor { datatype: Datatype::Uint8, dims: vec![2, 2, 3], data: Bytes::from(vec![9; 12]) };
        let image = tensor.image(0, 1, reading(Layout::Nhwc, false, Range::LEVELS)).unwrap();
        assert_eq!(image.rgb().as_ptr(), tensor.data.as_ptr());
    }

    /// The conversion in plain words, one value at a time, against the one that is laid out for vector units.
    #[test]
    fn the_fast_conversion_finds_what_a_slow_one_finds() {
        let mut number = drawn(12);
        for round in 0..300 {
            let (width, height) = (1 + usize::from(number()) % 40, 1 + usize::from(number()) % 9);
            let channels = if round % 3 == 0 { 1 } else { 3 };
            let layout = if round % 2 == 0 { Layout::Nhwc } else { Layout::Nchw };
            let bgr = round % 5 == 0;
            let range = Range::NAMED[round % 4].1;
            let wild = round % 4 == 1;
            let values: Vec<f32> = (0..width * height * channels)
                .map(|_| {
                    let unit = f32::from(u16::from_le_bytes([number(), number()])) / 65_535.0;
                    let level = if wild { unit * 300.0 - 20.0 } else { unit * 255.0 };
                    (level - range.offset[0]) / range.scale[0]
                })
                .collect();
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let (w, h, c) = (width as i64, height as i64, channels as i64);
            let dims = if layout == Layout::Nhwc { vec![h, w, c] } else { vec![c, h, w] };
            let tensor = Tensor { datatype: Datatype::Fp32, dims, data: data.into() };
            let image = tensor.image(0, 1, reading(layout, bgr, range)).unwrap();

            let mut clipped = false;
            let mut expected = Vec::new();
            for at in 0..width * height {
                for colour in 0..3 {
                    let place = if channels == 1 {
                        0
                    } else if bgr {
                        2 - colour
                    } else {
                        colour
                    };
                    let value = match layout {
                        Layout::Nhwc => values[at * channels + place],
                        Layout::Nchw => values[place * width * height + at],
                    };
                    let scaled = if channels == 1 { 0 } else { colour };
                    let pixel = value * range.scale[scaled] + range.offset[scaled];
                    clipped |= !(-0.5..=255.5).contains(&pixel);
                    expected.push(pixel.clamp(0.0, 255.0).round_ties_even() as u8);
                }
            }
            assert_eq!(image.rgb(), expected, "round {round}");
            assert_eq!(image.is_clipped(), clipped, "round {round}");
        }
    }

    #[test]
    fn a_value_outside_the_range_marks_the_picture_wherever_it_stands() {
        // 48 values: three whole blocks of sixteen, or four of twelve; 51 leave a rest.
        for side in [16, 17] {
            for at in 0..3 * side {
                for (value, is_clipped) in
                    [(-0.5, false), (255.5, false), (-0.6, true), (256.0, true), (1e30, true), (-1e30, true)]
                {
                    let mut values = vec![100f32; 3 * side];
                    values[at] = value;
                    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    for (layout, dims) in
                        [(Layout::Nhwc, vec![1, side as i64, 3]), (Layout::Nchw, vec![3, 1, side as i64])]
                    {
                        let data = Bytes::copy_from_slice(&data);
                        let tensor = Tensor { datatype: Datatype::Fp32, dims, data };
                        let image = tensor.image(0, 1, reading(layout, false, Range::LEVELS)).unwrap();
                        assert_eq!(image.is_clipped(), is_clipped, "{value} at {at} of {side}, {layout:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_no_picture_wherever_it_stands() {
        for at in 0..51 {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
                let mut values = vec![0.5f32; 51];
                values[at] = value;
                let data: Bytes =
                    values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into();
                for (layout, dims) in [(Layout::Nhwc, vec![1, 17, 3]), (Layout::Nchw, vec![3, 1, 17])] {
                    let tensor = Tensor { datatype: Datatype::Fp32, dims, data: data.clone() };
                    let known = reading(layout, false, Range::UNIT);
                    assert_eq!(tensor.image(0, 1, known).unwrap_err(), Unreadable::NotFinite);
                    let unknown = Reading { range: None, ..known };
                    assert_eq!(tensor.image(0, 1, unknown).unwrap_err(), Unreadable::NotFinite);
                }
            }
        }
    }

    #[test]
    fn floats_of_an_unknown_range_say_what_they_span() {
        let values: Vec<u8> = [0.25f32, -1.5, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = Tensor { datatype: Datatype::Fp32, dims: vec![1, 1, 3], data: values.into() };
        let unknown = Reading { layout: None, bgr: false, range: None };
        let expected = Unreadable::RangeUnknown { least: -1.5, most: 2.0 };
        assert_eq!(tensor.image(0, 1, unknown).unwrap_err(), expected);
    }

    #[test]
    fn values_tell_their_range() {
        for (least, most, name) in [
            (0.0, 1.0, "0..1"),
            (0.0, 0.2, "0..1"),
            (-1.0, 1.0, "-1..1"),
            (-0.3, 0.9, "-1..1"),
            (-2.1, 2.6, "imagenet"),
            (0.0, 255.0, "0..255"),
            (0.0, 12.0, "0..255"),
        ] {
            assert_eq!(Range::guess(least, most).0, name, "{least} to {most}");
        }
    }

    #[test]
    fn what_is_no_picture_says_so() {
        let of = |datatype, dims: &[i64]| {
            let tensor = Tensor { datatype, dims: dims.to_vec(), data: Bytes::from(vec![0; 4096]) };
            tensor.image(0, 1, Reading { layout: None, bgr: false, range: Some(Range::LEVELS) }).map(|_| ())
        };
        for dims in [&[][..], &[10], &[3, 3], &[2, 2, 2], &[1, 2, 2, 3], &[4, 4, 4], &[-1, 4, 3]] {
            assert_eq!(of(Datatype::Uint8, dims), Err(Unreadable::Shape(dims.to_vec())));
        }
        for dims in [&[0, 4, 3], &[4, 0, 3], &[20_000, 1, 3]] {
            assert!(matches!(of(Datatype::Uint8, dims), Err(Unreadable::Image(_))), "{dims:?}");
        }
        for datatype in [Datatype::Bool, Datatype::Int8, Datatype::Fp16, Datatype::Fp64, Datatype::Bytes] {
            assert_eq!(of(datatype, &[4, 4, 3]), Err(Unreadable::Datatype(datatype)));
        }
    }

    #[test]
    fn a_difference_below_a_level_makes_another_exact_picture_of_the_same_pixels() {
        let judge = crate::judgment::Judge::new(crate::judgment::Rules::hardened(), [7; 32]);
        let reading = Reading { layout: Some(Layout::Nhwc), bgr: false, range: Some(Range::UNIT) };
        let digest = |shift: f32| {
            let values = (0..48).map(|at| f32::from(at as u8 * 5) / 255.0 + shift / 255.0);
            let data = values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into();
            let tensor = Tensor { datatype: Datatype::Fp32, dims: vec![4, 4, 3], data };
            let image = tensor.image(0, 1, reading).unwrap();
            (image.rgb().to_vec(), judge.likeness(&image).digest(), image.is_clipped())
        };
        let (levels, exact, _) = digest(0.0);
        let (near_levels, near, clipped) = digest(0.2);
        assert_eq!(levels, near_levels);
        assert!(near != exact && near != digest(0.21).1 && !clipped);
        assert_eq!(digest(0.0001).1, exact, "the noise of arithmetic is no difference");
    }
}

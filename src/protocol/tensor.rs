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
        let length = self.data.len() / rows;
        read_row(self.datatype, &self.dims, &self.data[row * length..(row + 1) * length], reading)
    }
}

/// One row as a picture.
pub fn image<'a>(
    datatype: Datatype,
    dims: &[i64],
    row: &'a [u8],
    reading: Reading,
) -> Result<Image<'a>, Unreadable> {
    read_row(datatype, dims, row, reading)
}

fn read_row<'a>(
    datatype: Datatype,
    dims: &[i64],
    bytes: &'a [u8],
    reading: Reading,
) -> Result<Image<'a>, Unreadable> {
    let Ok(sizes) = <[i64; 3]>::try_from(dims) else {
        return Err(Unreadable::Shape(dims.to_vec()));
    };
    let layout = reading.layout.or_else(|| Layout::guess(dims)).unwrap_or(Layout::Nhwc);
    let sizes = layout.sizes(sizes);
    let (Ok(height), Ok(width), 1 | 3) =
        (u32::try_from(sizes.height), u32::try_from(sizes.width), sizes.channels)
    else {
        return Err(Unreadable::Shape(dims.to_vec()));
    };
    if height == 0 || width == 0 {
        return Err(Unreadable::Image(ImageError::Side { width, height }));
    }
    let channels = sizes.channels as usize;
    match datatype {
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
mod tests;

//! Data type, shape, layout and bytes into `Image`s, by the model server's own rules.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use fearless_simd::{Level, dispatch};

use super::pb;
use crate::judgment::{Image, ImageError, MAX_SIDE};

mod levels;
mod range;
mod sees;

pub use range::Range;
pub use sees::{Resize, Sees};

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

    /// Whether its values are floats.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64)
    }
}

impl fmt::Display for Datatype {
    /// As the protocol writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_uppercase())
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
    /// Height, width: one grey channel. Only where settings say so: an embedding and a matrix of tokens have two dimensions
    /// too, and would be judged as pictures.
    #[serde(rename = "HW", alias = "NHW")]
    Hw,
}

impl Layout {
    /// The layout that `dims` suggest, dimensions of 1 in front of three left out: three channels last or first, else one or
    /// four, last before first.
    pub fn guess(dims: &[i64]) -> Option<Self> {
        let &[first, _, last] = without_leading_ones(dims, 3) else { return None };
        match (first, last) {
            (_, 3) => Some(Self::Nhwc),
            (3, _) => Some(Self::Nchw),
            (_, 1 | 4) => Some(Self::Nhwc),
            (1 | 4, _) => Some(Self::Nchw),
            _ => None,
        }
    }

    /// Dimensions of one picture.
    fn rank(self) -> usize {
        if self == Self::Hw { 2 } else { 3 }
    }
}

/// `dims` cut down to `rank` where all that goes is 1: `[1, 224, 224, 3]` is a batch of one to a model without batches.
fn without_leading_ones(dims: &[i64], rank: usize) -> &[i64] {
    let ones = dims.len().saturating_sub(rank);
    if dims[..ones].iter().all(|&dim| dim == 1) { &dims[ones..] } else { dims }
}

/// A picture's sizes, within bounds.
#[derive(Clone, Copy)]
struct Sizes {
    width: u32,
    height: u32,
    channels: usize,
    /// Channel after channel, in place of pixel after pixel.
    planar: bool,
}

impl Sizes {
    fn of(dims: &[i64], reading: Reading) -> Result<Self, Unreadable> {
        let no_picture = || Unreadable::Shape(dims.to_vec());
        let layout = reading.layout.or_else(|| Layout::guess(dims)).unwrap_or(Layout::Nhwc);
        let [height, width, channels] = match (layout, without_leading_ones(dims, layout.rank())) {
            (Layout::Nhwc, &[height, width, channels]) | (Layout::Nchw, &[channels, height, width]) => {
                [height, width, channels]
            }
            (Layout::Hw, &[height, width]) => [height, width, 1],
            _ => return Err(no_picture()),
        };
        let (Ok(width), Ok(height), 1 | 3 | 4) = (u32::try_from(width), u32::try_from(height), channels)
        else {
            return Err(no_picture());
        };
        reading.bounds(width, height)?;
        Ok(Self { width, height, channels: channels as usize, planar: layout == Layout::Nchw })
    }

    /// Pixels; the sides are at most [`MAX_SIDE`].
    fn plane(self) -> usize {
        self.width as usize * self.height as usize
    }
}

/// How a model's pictures are read; what settings and signature together decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// None: told from the shape.
    pub layout: Option<Layout>,
    /// Channels stand in the order blue, green, red (and alpha, where there are four).
    pub bgr: bool,
    /// None: not known yet.
    pub range: Option<Range>,
    /// What of a picture the model looks at; none for all of it.
    pub sees: Option<Sees>,
    /// The most pixels of one picture.
    pub most_pixels: u32,
}

impl Default for Reading {
    /// Nothing is known of the model; pictures of up to 16 million pixels.
    fn default() -> Self {
        Self { layout: None, bgr: false, range: None, sees: None, most_pixels: 1 << 24 }
    }
}

impl Reading {
    /// Whether a picture of these sides may be read at all; asked before anything of its size is allocated.
    pub(super) fn bounds(self, width: u32, height: u32) -> Result<(), Unreadable> {
        let allowed = 1..=MAX_SIDE;
        if !allowed.contains(&width) || !allowed.contains(&height) {
            return Err(Unreadable::Image(ImageError::Side { width, height }));
        }
        if width * height > self.most_pixels {
            return Err(Unreadable::Pixels { width, height, most: self.most_pixels });
        }
        Ok(())
    }
}

/// Why well-formed bytes are no picture that we can read.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Unreadable {
    /// A type that holds no pixels.
    #[error("expected numbers for pixels, found {0}")]
    Datatype(Datatype),
    /// Not the dimensions of a picture.
    #[error("expected the dimensions of a picture with 1, 3 or 4 channels, found {0:?}")]
    Shape(Vec<i64>),
    /// Not as many bytes as the dimensions call for.
    #[error("expected {expected} bytes for the picture's dimensions, found {found}")]
    Length {
        /// By the dimensions.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Too long a side, or none.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Too many pixels.
    #[error("expected at most {most} pixels (limits.image_pixels), found {width} x {height}")]
    Pixels {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
        /// The limit.
        most: u32,
    },
    /// Not a number, or infinite.
    #[error("expected finite values, found NaN or infinity")]
    NotFinite,
    /// What the values mean is not known yet; they span `least` to `most`.
    #[error("expected values of a known range, found {least} to {most}: set `range` for this model")]
    RangeUnknown {
        /// The smallest value.
        least: f32,
        /// The largest value.
        most: f32,
    },
    /// A file of no format that is decoded; what its first bytes look like.
    #[error("expected a JPEG, PNG, WebP, BMP or GIF picture, found {0}")]
    Format(String),
    /// A file that begins like a picture and is torn, corrupt or of a kind that decoders read differently.
    #[error("expected a whole {format} picture, found: {why}")]
    Broken {
        /// By its first bytes.
        format: &'static str,
        /// What is wrong with it.
        why: String,
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
    pub fn image(&self, row: usize, rows: usize, reading: Reading) -> Result<Image<'_>, Unreadable> {
        let length = self.data.len() / rows;
        image(self.datatype, &self.dims, &self.data[row * length..(row + 1) * length], reading)
    }
}

/// One row's raw little-endian values as a picture; `dims` are those of the row.
///
/// Shares the row's memory where its bytes are already RGB levels, height x width x 3. Cost: `tensor` in `benches/judgment.rs`;
/// nothing is allocated before sides, pixels and length are checked. NaN and infinity make a row unreadable.
///
/// Values between levels are rounded and values outside the range clipped; either marks the picture ([`Image::rounded`],
/// [`Image::clipped`]), and so does alpha, which is no part of the pixels: the digest then covers the values as they came.
/// What the noise of arithmetic alone may have moved from a level is that level: 1/256 of a level for floats, and half a unit
/// in the last place more for FP16; for integers nothing but the nearest value. So the same 8-bit picture has the same digest
/// in every type and range, but for BF16, whose 8 bits of precision cost up to a level.
pub fn image<'a>(
    datatype: Datatype,
    dims: &[i64],
    row: &'a [u8],
    reading: Reading,
) -> Result<Image<'a>, Unreadable> {
    let (Some(size), false) = (datatype.size(), datatype == Datatype::Bool) else {
        return Err(Unreadable::Datatype(datatype));
    };
    let mut sizes = Sizes::of(dims, reading)?;
    let expected = (sizes.plane() * sizes.channels * size) as u64;
    if row.len() as u64 != expected {
        return Err(Unreadable::Length { expected, found: row.len() as u64 });
    }
    let mut values = Cow::Borrowed(row);
    if let Some(seen) = reading.sees.and_then(|sees| sees.region(sizes.width, sizes.height)) {
        let (pixel, planes) = if sizes.planar { (size, sizes.channels) } else { (size * sizes.channels, 1) };
        let plane = row.chunks_exact(sizes.plane() * pixel).take(planes);
        values = plane.flat_map(|plane| seen.cut(plane, sizes.width, pixel)).collect::<Vec<u8>>().into();
        (sizes.width, sizes.height) = (seen.width(), seen.height());
    }
    let Some(range) = reading.range.or_else(|| Range::certain(datatype)) else {
        return Err(levels::span(datatype, &values));
    };
    let is_levels = datatype == Datatype::Uint8 && range == Range::LEVELS;
    let (levels, is_clipped, is_rounded) = if is_levels {
        (values.clone(), false, false)
    } else {
        let read = levels::levels(datatype, &values, sizes, reading.bgr, range)?;
        (Cow::Owned(read.levels), read.is_clipped, read.is_rounded)
    };
    let rgb = dispatch!(Level::new(), _simd => interleave(levels, sizes, reading.bgr));
    let image = Image::new(sizes.width, sizes.height, rgb)?;
    Ok(match (is_clipped, is_rounded || sizes.channels == 4) {
        (false, false) => image,
        (false, true) => image.rounded(&values),
        (true, _) => image.clipped(&values),
    })
}

/// Levels in whatever order into RGB, height x width x 3; grey becomes three equal channels, alpha is left out.
#[inline(always)]
#[allow(clippy::inline_always, reason = "only what is seen through is compiled for each kind of vector unit")]
fn interleave(levels: Cow<'_, [u8]>, sizes: Sizes, bgr: bool) -> Cow<'_, [u8]> {
    let Sizes { channels, planar, .. } = sizes;
    if channels == 3 && !planar && !bgr {
        return levels;
    }
    if channels == 1 {
        return levels.iter().flat_map(|&level| [level; 3]).collect::<Vec<u8>>().into();
    }
    let (red, blue) = if bgr { (2, 0) } else { (0, 2) };
    let mut rgb = vec![0u8; sizes.plane() * 3];
    if planar {
        let plane = sizes.plane();
        let of = |channel: usize| &levels[channel * plane..(channel + 1) * plane];
        let colours = of(red).iter().zip(of(1)).zip(of(blue));
        for (pixel, ((&red, &green), &blue)) in rgb.chunks_exact_mut(3).zip(colours) {
            pixel.copy_from_slice(&[red, green, blue]);
        }
    } else {
        for (pixel, source) in rgb.chunks_exact_mut(3).zip(levels.chunks_exact(channels)) {
            pixel.copy_from_slice(&[source[red], source[1], source[blue]]);
        }
    }
    rgb.into()
}

#[cfg(test)]
mod tests;

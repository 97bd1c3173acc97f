//! Encoded pictures into `Image`s: JPEG, PNG, WebP, GIF and BMP, as model servers decode them.
//!
//! Alpha is dropped, 16 bits lose the lower eight, of an animation the first frame counts, and EXIF orientation and colour
//! profiles are left alone: `convert("RGB")` and `decode_image(channels=3)` do the same. Wherever that drops something that a
//! model could see after all, and for every JPEG and lossy WebP, since decoders differ by a level, the picture's digest covers
//! the file ([`Image::rounded`]).
//!
//! A caller chooses every byte of these files, so each is looked through first (`jpeg`, `headers`): the sides, what decoding
//! will take, and whether the file is whole. A torn picture is refused: decoders make up what is missing, each in its own way,
//! and so a caller could show the model one picture and us another. For the same reason no decoder is given anything that does
//! not decide pixels (a PNG's text, profile and later frames), which could only take memory.

use std::collections::BTreeSet;
use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder, ImageError, Limits};

use super::digest;
use super::tensor::{Reading, Unreadable};
use crate::judgment::Image;

mod bits;
mod headers;
mod jpeg;
mod text;

pub use text::is_text;

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their own names")]
pub enum Format {
    Jpeg,
    Png,
    WebP,
    Bmp,
    Gif,
}

impl Format {
    /// The format that `bytes` begin like.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Self::Png,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'B', b'M', ..] => Self::Bmp,
            _ => return None,
        })
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Gif => "GIF",
        }
    }

    fn broken(self, why: &impl ToString) -> Unreadable {
        Unreadable::Broken { format: self.name(), why: why.to_string() }
    }
}

/// The digests that `form` comes to for each kind of file among `files`; its own where there are none.
pub(super) fn digests<'a>(form: &blake3::Hasher, files: impl Iterator<Item = &'a [u8]>) -> Vec<[u8; 16]> {
    let containers: BTreeSet<&str> = files.map(container).collect();
    if containers.is_empty() {
        return vec![digest::long(form)];
    }
    let with = |container: &str| {
        let mut form = form.clone();
        digest::absorb(&mut form, container.as_bytes());
        digest::long(&form)
    };
    containers.into_iter().map(with).collect()
}

/// What a file begins like; empty where that is no format that we decode.
pub(super) fn container(file: &[u8]) -> &'static str {
    Format::of(file).map_or("", Format::name)
}

/// What a file's headers say, all of it checked against the file's own length; nothing is decoded yet.
struct Header<'a> {
    format: Format,
    width: u32,
    height: u32,
    /// The file, up to the picture's end as far as that is known.
    file: &'a [u8],
    /// An upper bound of the bytes that its decoder takes, its output included.
    decode_bytes: usize,
    /// Decoding to 8-bit RGB drops something, or decoders differ.
    lossy: bool,
    /// There is an alpha channel, or a colour that is transparent.
    alpha: bool,
}

/// A picture out of a file, with what is told of it to people.
#[derive(Debug)]
pub struct Decoded {
    /// The picture.
    pub image: Image<'static>,
    /// The file's format.
    pub format: Format,
    /// Some transparency was dropped.
    pub alpha: bool,
}

/// The picture in `bytes`, cut to what the model sees; of `reading` nothing else but the limit matters.
///
/// Out: [`Unreadable::Format`] for anything but the five formats, [`Unreadable::Broken`] for a torn or corrupt file and one that
/// decoders read differently, and the errors of sides and pixels, all before anything is allocated but the last, which comes
/// with the decoder. Bytes after the picture's end are ignored, as decoders do. Cost: `decode` in `benches/judgment.rs`.
/// Blind to: what a decoder other than ours makes of a corrupt file that ours takes for whole.
pub fn image(bytes: &[u8], reading: Reading) -> Result<Image<'static>, Unreadable> {
    decode(bytes, reading).map(|decoded| decoded.image)
}

/// As [`image()`], with its format.
pub fn decode(bytes: &[u8], reading: Reading) -> Result<Decoded, Unreadable> {
    let header = Header::of(bytes)?;
    reading.bounds(header.width, header.height)?;
    let Header { format, width, height, lossy, alpha, .. } = header;
    let mut rgb = header.rgb()?;
    let (mut seen_width, mut seen_height) = (width, height);
    if let Some(seen) = reading.sees.and_then(|sees| sees.region(width, height)) {
        rgb = seen.cut(&rgb, width, 3);
        (seen_width, seen_height) = (seen.width(), seen.height());
    }
    let image = Image::new(seen_width, seen_height, rgb.into())?;
    let image = if lossy { image.rounded(bytes) } else { image };
    Ok(Decoded { image, format, alpha })
}

/// An upper bound of the bytes that [`image()`] takes for `bytes`, told from the headers: output, decoder, and the cut.
///
/// 0 where that is refused by the headers already, which costs nothing.
///
/// | | for each pixel |
/// |---|---|
/// | JPEG, baseline | 3, grey 4 |
/// | JPEG, progressive or scan by scan | 2 more for each coefficient (6 where colour is not subsampled), and an eighth of that |
/// | PNG | what the file holds (1 to 8), and 3 where that is not RGB already |
/// | WebP | lossy 4.5, lossless 7, more with alpha or frames; a lossless file's code tables can take up to 384 times its length |
/// | GIF | 4 to 9, and 3 |
/// | BMP | 3, or 4 and 3 |
///
/// Lossless WebP is the one format whose header does not tell: the number of its code tables stands in the compressed stream.
pub fn decode_bytes(bytes: &[u8], reading: Reading) -> usize {
    let Ok(header) = Header::of(bytes) else { return 0 };
    if reading.bounds(header.width, header.height).is_err() {
        return 0;
    }
    let cut = if reading.sees.is_some() { header.pixels() * 3 } else { 0 };
    header.decode_bytes + cut + FIXED
}

/// The pixels that the headers of `bytes` speak of; 0 where these are refused. Nothing is decoded.
pub fn pixels(bytes: &[u8]) -> usize {
    Header::of(bytes).map_or(0, |header| header.pixels())
}

/// What any decoding takes whatever the size: windows, tables, the decoder itself.
const FIXED: usize = 512 << 10;

impl<'a> Header<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let Some(format) = Format::of(bytes) else {
            return Err(Unreadable::Format(text::looks_like(bytes)));
        };
        match format {
            Format::Jpeg => jpeg::header(bytes),
            Format::Png => headers::png(bytes),
            Format::WebP => headers::webp(bytes),
            Format::Bmp => headers::bmp(bytes),
            Format::Gif => headers::gif(bytes),
        }
        .map_err(|why| format.broken(&why))
    }

    fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }

    /// The pixels, height x width x 3.
    fn rgb(self) -> Result<Vec<u8>, Unreadable> {
        let format = self.format;
        let broken = |error: ImageError| format.broken(&error);
        let file = Cursor::new(self.file);
        let mut limits = Limits::default();
        limits.max_image_width = Some(self.width);
        limits.max_image_height = Some(self.height);
        limits.max_alloc = Some((self.decode_bytes + FIXED) as u64);
        match format {
            Format::Jpeg => jpeg::rgb(self.file).map_err(|why| format.broken(&why)),
            Format::Png => {
                let decisive = Cursor::new(headers::decisive(self.file));
                self.through(PngDecoder::with_limits(decisive, limits.clone()).map_err(broken)?, limits)
            }
            Format::WebP => self.through(WebPDecoder::new(file).map_err(broken)?, limits),
            Format::Bmp => self.through(BmpDecoder::new(file).map_err(broken)?, limits),
            Format::Gif => self.through(GifDecoder::new(file).map_err(broken)?, limits),
        }
    }

    fn through(&self, mut decoder: impl ImageDecoder, limits: Limits) -> Result<Vec<u8>, Unreadable> {
        let broken = |error: ImageError| self.format.broken(&error);
        decoder.set_limits(limits).map_err(broken)?;
        let (width, height) = decoder.dimensions();
        if (width, height) != (self.width, self.height) {
            // Two readers of one header that differ: not a file to trust.
            return Err(self.format.broken(&format!("sides of {width} x {height} in the decoder's eyes")));
        }
        let color = decoder.color_type();
        let mut values = vec![0; self.pixels() * usize::from(color.bytes_per_pixel())];
        decoder.read_image(&mut values).map_err(broken)?;
        to_rgb(values, color).ok_or_else(|| self.format.broken(&format!("pixels of type {color:?}")))
    }
}

/// Pixels as a decoder gives them: alpha dropped, of 16 bits the upper eight.
fn to_rgb(values: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
    /// The upper byte of a 16-bit value in this machine's order.
    const UPPER: usize = if cfg!(target_endian = "little") { 1 } else { 0 };
    let size = usize::from(color.bytes_per_pixel());
    let places = match color {
        ColorType::Rgb8 => return Some(values),
        ColorType::L8 | ColorType::La8 => [0; 3],
        ColorType::Rgba8 => [0, 1, 2],
        ColorType::L16 | ColorType::La16 => [UPPER; 3],
        ColorType::Rgb16 | ColorType::Rgba16 => [UPPER, 2 + UPPER, 4 + UPPER],
        _ => return None,
    };
    let mut rgb = vec![0; values.len() / size * 3];
    for (pixel, value) in rgb.chunks_exact_mut(3).zip(values.chunks_exact(size)) {
        pixel.copy_from_slice(&[value[places[0]], value[places[1]], value[places[2]]]);
    }
    Some(rgb)
}

#[cfg(test)]
mod tests;

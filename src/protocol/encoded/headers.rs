//! The headers of PNG, WebP, BMP and GIF: sides, what decides pixels, what decoding takes.
//!
//! Every file here is walked through by its own lengths, each checked against the bytes that are there.

use super::{Format, Header};

/// The bytes that one byte of a lossless WebP can make of itself in code tables: a table of 11 codes takes 12 bytes of file,
/// and 4 KiB of memory.
const WEBP_TABLES: usize = 384;

/// As a decoder would say it.
type Broken = &'static str;

const ENDS: Broken = "the file ends early";

/// What a PNG's chunk takes beside its content: length, name and checksum.
const CHUNK: usize = 12;

/// The header, and what stands in front of the picture's end.
pub(super) fn png(bytes: &[u8]) -> Result<Header<'_>, Broken> {
    let mut at = 8;
    let mut sides = None;
    let (mut lossy, mut alpha) = (false, false);
    loop {
        let (name, content) = chunk(bytes, at)?;
        match name {
            b"IHDR" if sides.is_none() && content.len() == 13 => {
                let (depth, color) = (usize::from(content[8]), content[9]);
                sides = Some((number(content, 0, 4, true)?, number(content, 4, 4, true)?, depth, color));
                alpha |= matches!(color, 4 | 6);
                lossy |= depth == 16;
            }
            b"IHDR" => return Err("two headers, or one of another length"),
            _ if sides.is_none() => return Err("no header"),
            b"tRNS" => alpha = true,
            // What a model server may heed although most do not.
            b"iCCP" | b"eXIf" | b"acTL" => lossy = true,
            _ => {}
        }
        at += CHUNK + content.len();
        if name == b"IEND" {
            break;
        }
    }
    let (width, height, depth, color) = sides.ok_or("no header")?;
    let samples = match color {
        0 => 1 + usize::from(alpha),
        2 | 3 => 3 + usize::from(alpha),
        4 => 2,
        6 => 4,
        _ => return Err("a colour type of its own"),
    };
    let pixel = samples * if depth == 16 { 2 } else { 1 };
    let rgb = if pixel == 3 { 0 } else { 3 };
    let taken = width.saturating_mul(height).saturating_mul(pixel + rgb);
    // Two lines and the window beside the output.
    let lines = width.saturating_mul(4 * 8);
    let decode_bytes = taken.saturating_add(lines).saturating_add(at);
    let (width, height) = (width as u32, height as u32);
    let file = &bytes[..at];
    Ok(Header { format: Format::Png, width, height, file, decode_bytes, lossy: lossy || alpha, alpha })
}

/// Of a PNG that [`png`] has looked through only what decides pixels: the sides, the palette and its alpha, and the first
/// picture's data.
pub(super) fn decisive(file: &[u8]) -> Vec<u8> {
    let mut decisive = Vec::with_capacity(file.len());
    decisive.extend_from_slice(&file[..8]);
    let mut at = 8;
    while let Ok((name, content)) = chunk(file, at) {
        let end = at + CHUNK + content.len();
        if matches!(name, b"IHDR" | b"PLTE" | b"tRNS" | b"IDAT" | b"IEND") {
            decisive.extend_from_slice(&file[at..end]);
        }
        at = end;
    }
    decisive
}

/// The chunk at `at` of a PNG: its name and its content.
fn chunk(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), Broken> {
    let length = number(bytes, at, 4, true)?;
    let chunk = bytes.get(at..).and_then(|rest| rest.get(..length + CHUNK)).ok_or(ENDS)?;
    Ok((&chunk[4..8], &chunk[8..8 + length]))
}

/// The canvas, and the first frame on it.
pub(super) fn webp(bytes: &[u8]) -> Result<Header<'_>, Broken> {
    let length = number(bytes, 4, 4, false)?;
    let file = bytes.get(..length.checked_add(8).ok_or(ENDS)?).ok_or(ENDS)?;
    let (name, first) = riff(file, 12)?;
    let (mut canvas, mut frames, mut others) = (None, 0usize, false);
    let mut alpha = false;
    let mut pictures: Vec<Still> = Vec::new();
    if name == b"VP8X" {
        let flags = *first.first().ok_or(ENDS)?;
        canvas = Some((number(first, 4, 3, false)? + 1, number(first, 7, 3, false)? + 1));
        alpha = flags & 0x10 != 0;
        let is_animated = flags & 2 != 0;
        let mut at = 12 + padded(first);
        while at + 8 <= file.len() {
            let (name, content) = riff(file, at)?;
            at += padded(content);
            match name {
                b"VP8 " | b"VP8L" | b"ALPH" if !is_animated => pictures.extend(Still::of(name, content)?),
                b"ICCP" | b"EXIF" => others = true,
                b"ANMF" if is_animated => {
                    frames += 1;
                    if frames == 1 {
                        pictures = frame(content, canvas)?;
                    }
                }
                _ => {}
            }
        }
        // The flags may deny what is there; the decoder finds it by name.
        alpha |= pictures.iter().any(|of| matches!(of, Still::Alpha));
    } else {
        pictures.extend(Still::of(name, first)?);
    }
    let mut sides = pictures.iter().filter_map(|of| match of {
        Still::Lossy(sides) | Still::Lossless(sides, _) => Some(*sides),
        Still::Alpha => None,
    });
    let (Some(still), None) = (sides.next(), sides.next()) else { return Err("no picture, or several") };
    let (width, height) = canvas.unwrap_or(still);
    if frames == 0 && still != (width, height) {
        return Err("a picture of other sides than its canvas");
    }
    let is_lossless = pictures.iter().any(|of| matches!(of, Still::Lossless(..)));
    alpha |= pictures.iter().any(|of| matches!(of, Still::Lossless(_, true)));
    // Planes are made of whole blocks of 16 x 16.
    let pixels = (width + 15) * (height + 15);
    let of_format = match (is_lossless, alpha) {
        (true, false) => 7,
        (true, true) => 7 + 4,
        (false, false) => 5,
        (false, true) => 6 + 6 + 3 + 2,
    };
    let of_frames = if frames > 0 { 12 } else { 0 };
    let tables = if is_lossless || alpha { WEBP_TABLES } else { 3 };
    let decode_bytes = pixels * (of_format + of_frames) + tables.saturating_mul(file.len());
    let lossy = !is_lossless || alpha || frames > 1 || others || (frames > 0 && still != (width, height));
    let (width, height) = (width as u32, height as u32);
    Ok(Header { format: Format::WebP, width, height, file, decode_bytes, lossy, alpha })
}

/// One compressed part of a WebP file, with its sides.
enum Still {
    Lossy((usize, usize)),
    /// And whether it says that it has alpha.
    Lossless((usize, usize), bool),
    Alpha,
}

impl Still {
    fn of(name: &[u8], content: &[u8]) -> Result<Option<Self>, Broken> {
        Ok(Some(match name {
            b"VP8 " => {
                let (width, height) = (number(content, 6, 2, false)?, number(content, 8, 2, false)?);
                Self::Lossy((width & 0x3fff, height & 0x3fff))
            }
            b"VP8L" => {
                let bits = number(content, 1, 4, false)?;
                Self::Lossless(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1), bits >> 28 & 1 == 1)
            }
            b"ALPH" => Self::Alpha,
            _ => return Ok(None),
        }))
    }
}

/// The parts of an animation's first frame, which must lie on the canvas.
fn frame(content: &[u8], canvas: Option<(usize, usize)>) -> Result<Vec<Still>, Broken> {
    let of = |at| number(content, at, 3, false);
    let (x, y, width, height) = (2 * of(0)?, 2 * of(3)?, of(6)? + 1, of(9)? + 1);
    if !canvas.is_some_and(|canvas| x + width <= canvas.0 && y + height <= canvas.1) {
        return Err("a frame that reaches beyond the canvas");
    }
    let mut stills = Vec::new();
    let mut at = 16;
    while at + 8 <= content.len() {
        let (name, part) = riff(content, at)?;
        at += padded(part);
        if let Some(still) = Still::of(name, part)? {
            let fits = match still {
                Still::Lossy(sides) | Still::Lossless(sides, _) => sides == (width, height),
                Still::Alpha => true,
            };
            if !fits {
                return Err("a picture of other sides than its frame");
            }
            stills.push(still);
        }
    }
    Ok(stills)
}

/// The chunk at `at`: its name and its content.
fn riff(file: &[u8], at: usize) -> Result<(&[u8], &[u8]), Broken> {
    let length = number(file, at + 4, 4, false)?;
    let content = file.get(at + 8..).and_then(|rest| rest.get(..length)).ok_or(ENDS)?;
    Ok((&file[at..at + 4], content))
}

/// What a chunk takes with its head and its padding.
fn padded(content: &[u8]) -> usize {
    8 + content.len().next_multiple_of(2)
}

/// The sides; a negative height stands for rows from the top.
pub(super) fn bmp(bytes: &[u8]) -> Result<Header<'_>, Broken> {
    let of = |at, length| number(bytes, at, length, false);
    let (width, height, depth, compression) = match of(14, 4)? {
        12 => (of(18, 2)? as i32, of(20, 2)? as i32, of(24, 2)?, 0),
        40.. => (of(18, 4)? as i32, of(22, 4)? as i32, of(28, 2)?, of(30, 4)?),
        _ => return Err("a header of another length"),
    };
    if width <= 0 {
        return Err("a width below 1");
    }
    // Uncompressed and plain masks alone have rows of one length, which must all be there.
    let (width, height) = (width.unsigned_abs(), height.unsigned_abs());
    let row = (width as usize * depth).div_ceil(32) * 4;
    let rows = row.saturating_mul(height as usize);
    if matches!(compression, 0 | 3 | 6) && bytes.len() < of(10, 4)?.saturating_add(rows) {
        return Err(ENDS);
    }
    let pixels = (width as usize).saturating_mul(height as usize);
    Ok(Header {
        format: Format::Bmp,
        width,
        height,
        file: bytes,
        decode_bytes: pixels.saturating_mul(7).saturating_add(row * 4),
        // 5 and 6 bits become 8 differently, a run may leave pixels out, and 32 bits may hold alpha.
        lossy: !matches!((depth, compression), (1 | 4 | 8 | 24, 0)),
        alpha: depth == 32,
    })
}

/// The canvas, and the file up to the end of its first frame.
pub(super) fn gif(bytes: &[u8]) -> Result<Header<'_>, Broken> {
    const EXTENSION: u8 = 0x21;
    const FRAME: u8 = 0x2c;
    let of = |at, length| number(bytes, at, length, false);
    let (width, height) = (of(6, 2)?, of(8, 2)?);
    let mut at = 13 + palette(*bytes.get(10).ok_or(ENDS)?);
    let mut alpha = false;
    loop {
        match *bytes.get(at).ok_or(ENDS)? {
            EXTENSION => {
                let is_control = of(at + 1, 2)? == 0x04f9;
                alpha |= is_control && of(at + 3, 1)? & 1 == 1;
                at = after_blocks(bytes, at + 2)?;
            }
            FRAME => break,
            _ => return Err("no picture"),
        }
    }
    let (left, top, wide, high) = (of(at + 1, 2)?, of(at + 3, 2)?, of(at + 5, 2)?, of(at + 7, 2)?);
    if wide == 0 || high == 0 || left + wide > width || top + high > height {
        return Err("a frame that is empty or reaches beyond the canvas");
    }
    let data = at + 10 + palette(of(at + 9, 1)? as u8);
    let end = after_blocks(bytes, data + 1)?;
    // After this frame comes the end, or something that a reader of animations would see.
    let goes_on = !matches!(bytes.get(end), None | Some(0x3b));
    let is_whole = (wide, high) == (width, height);
    let decode_bytes = width * height * 7 + wide * high * if is_whole { 1 } else { 5 };
    Ok(Header {
        format: Format::Gif,
        width: width as u32,
        height: height as u32,
        file: &bytes[..end],
        decode_bytes,
        lossy: alpha || goes_on || !is_whole,
        alpha,
    })
}

/// The bytes of the palette that `flags` announce.
fn palette(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Where the data blocks that begin at `at` end.
fn after_blocks(bytes: &[u8], mut at: usize) -> Result<usize, Broken> {
    loop {
        let length = usize::from(*bytes.get(at).ok_or(ENDS)?);
        at += 1 + length;
        if length == 0 {
            return Ok(at);
        }
    }
}

/// The number of `length` bytes, at most four, at `at`.
fn number(bytes: &[u8], at: usize, length: usize, big_endian: bool) -> Result<usize, Broken> {
    let bytes = bytes.get(at..).and_then(|rest| rest.get(..length)).ok_or(ENDS)?;
    let add = |sum: usize, &byte: &u8| sum << 8 | usize::from(byte);
    Ok(if big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) })
}

//! Bytes that are no picture: plain text, and what others begin like.

use super::Format;

/// The longest text, in bytes: more than any prompt, less than most photographs.
const LONGEST: usize = 64 << 10;

/// Characters of base64 in a row from which they may be a picture: 48 bytes, below any header with a pixel.
const BASE64: usize = 64;

/// How text files of pictures begin, after white space.
const PICTURES_IN_WORDS: [&str; 8] =
    ["<svg", "<?xml", "<!doctype", "/* xpm", "#define", "%!ps", "%pdf", "data:"];

/// Whether `bytes` are plain text and nothing that a decoder takes for a picture.
///
/// Plain text is UTF-8 of at most 64 KiB without control characters other than tab and line ends. Not plain: what begins, after
/// white space, like a picture written in text (PBM to PAM, SVG, XPM, XBM, PostScript, `data:`), and any run of 64 or more
/// characters of base64 (either alphabet, white space between them ignored) that is a picture from its first bytes on.
///
/// What remains, and would pass as text: a picture in an encoding of words that is none of these (hexadecimal, base85, a JSON
/// list of numbers, base64 with its first characters hidden), and the path or address of a picture that the model server itself
/// fetches. A model that takes those is named by the setting `image_input`, with which nothing passes as text. Cost: two passes.
pub fn is_text(bytes: &[u8]) -> bool {
    if bytes.len() > LONGEST {
        return false;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_plain = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    text.chars().all(is_plain) && !is_picture_in_words(text) && !has_base64_picture(bytes)
}

fn is_picture_in_words(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    let begins =
        |start: &&str| text.get(..start.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(start));
    let is_pnm = matches!(text.as_bytes(), [b'P', b'1'..=b'7', rest, ..] if rest.is_ascii_whitespace());
    is_pnm || Format::of(text.as_bytes()).is_some() || PICTURES_IN_WORDS.iter().any(begins)
}

/// Whether a run of base64 characters, or what follows words in one, begins like a picture.
fn has_base64_picture(bytes: &[u8]) -> bool {
    let mut run: Vec<u8> = Vec::new();
    for byte in bytes.iter().copied().chain([b'.']) {
        match sextet(byte) {
            Some(value) => run.push(value),
            None if byte.is_ascii_whitespace() => {}
            None => {
                if run.windows(BASE64).any(is_picture_in_base64) {
                    return true;
                }
                run.clear();
            }
        }
    }
    false
}

/// Whether the bytes that `sextets`, 64 of them, stand for begin like a picture, ours to decode or not.
fn is_picture_in_base64(sextets: &[u8]) -> bool {
    let mut bytes = [0u8; BASE64 / 4 * 3];
    for (three, four) in bytes.chunks_exact_mut(3).zip(sextets.chunks_exact(4)) {
        let bits = four.iter().fold(0u32, |bits, &sextet| bits << 6 | u32::from(sextet));
        three.copy_from_slice(&bits.to_be_bytes()[1..]);
    }
    match (Format::of(&bytes), bytes) {
        // Two letters happen in words: a bitmap's reserved bytes and the upper ones of its offset are 0.
        (Some(Format::Bmp), [_, _, _, _, _, _, 0, 0, 0, 0, _, _, 0, 0, ..]) => true,
        (Some(Format::Bmp), _) => false,
        (Some(_), _) => true,
        (None, _) => other(&bytes).is_some_and(|(_, is_telling)| is_telling),
    }
}

fn sextet(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

/// What `bytes`, of no format that is decoded, look like, in words.
pub(super) fn looks_like(bytes: &[u8]) -> String {
    match other(bytes) {
        _ if bytes.is_empty() => "nothing".to_owned(),
        Some((name, _)) => name.to_owned(),
        None if is_text(bytes) => "text".to_owned(),
        None => {
            let hex: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("bytes that begin like none of them ({})", hex.join(" "))
        }
    }
}

/// The name of a format that is not decoded, and whether its first bytes are more than a few letters.
fn other(bytes: &[u8]) -> Option<(&'static str, bool)> {
    let is_box = |brands: &[&[u8; 4]]| matches!(bytes, [_, _, _, _, b'f', b't', b'y', b'p', a, b, c, d, ..] if brands.contains(&&[*a, *b, *c, *d]));
    Some(match bytes {
        [b'I', b'I', 0x2a | 0x2b, 0, ..] | [b'M', b'M', 0, 0x2a | 0x2b, ..] => ("a TIFF picture", true),
        [0xff, 0x0a, ..] => ("a JPEG XL picture", false),
        [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => ("a JPEG XL picture", true),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => {
            ("a JPEG 2000 picture", true)
        }
        _ if is_box(&[b"avif", b"avis"]) => ("an AVIF picture", true),
        _ if is_box(&[b"heic", b"heix", b"mif1", b"msf1", b"heim", b"hevc"]) => ("a HEIF picture", true),
        [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n', ..] => ("a PNM picture", false),
        [b'8', b'B', b'P', b'S', 0, ..] => ("a PSD picture", true),
        [0, 0, 1 | 2, 0, _, 0, ..] => ("an ICO picture", true),
        [b'D', b'D', b'S', b' ', 124, ..] => ("a DDS picture", true),
        [b'q', b'o', b'i', b'f', 0, ..] => ("a QOI picture", true),
        [0x76, 0x2f, 0x31, 0x01, ..] => ("an OpenEXR picture", true),
        [b'%', b'P', b'D', b'F', ..] => ("a PDF document", false),
        [0x1f, 0x8b, 8, ..] => ("gzip data", true),
        [b'P', b'K', 3, 4, ..] => ("a ZIP archive", true),
        [b'R', b'I', b'F', b'F', ..] => ("a RIFF file that is no WebP picture", false),
        _ if std::str::from_utf8(bytes).is_ok_and(is_picture_in_words) => {
            ("a picture or address written as text", false)
        }
        _ => return None,
    })
}

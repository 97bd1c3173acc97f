//! What `encoded.rs` promises, file by file; `tests/readers.rs` has what holds for any bytes.

use image::{DynamicImage, ImageFormat, RgbImage};

use super::*;
use crate::judgment::{Digest, Judge, MAX_SIDE, Rules};

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/encoded/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| unreachable!("{path}: {error}"))
}

fn read(bytes: &[u8]) -> Result<Image<'static>, Unreadable> {
    image(bytes, Reading::default())
}

fn fixture_image(name: &str) -> Image<'static> {
    read(&fixture(name)).unwrap_or_else(|error| unreachable!("{name}: {error}"))
}

fn digest(image: &Image<'_>) -> Digest {
    Judge::new(Rules::hardened(), [7; 32]).likeness(image).digest()
}

/// Whether the picture is the same as its plain pixels, digest included.
fn is_plain(image: &Image<'_>) -> bool {
    digest(image) == digest(&Image::new(image.width(), image.height(), image.rgb().into()).unwrap())
}

fn encoded(rgb: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(rgb.clone()).write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// Soft colours with a hard edge.
fn drawn(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let edge = if x > y { 90 } else { 0 };
        image::Rgb([(x * 5 % 256) as u8, (y * 7 % 200) as u8 + 20, (x + y) as u8 / 2 + edge])
    })
}

#[test]
fn one_picture_in_every_lossless_form_is_the_same_picture() {
    let drawn = fixture_image("drawn.png");
    assert_eq!((drawn.width(), drawn.height()), (40, 30));
    for name in ["drawn.png", "interlaced.png", "lossless.webp"] {
        let image = fixture_image(name);
        assert_eq!(image.rgb(), drawn.rgb(), "{name}");
        assert!(is_plain(&image), "{name}");
    }
    let rgb = RgbImage::from_raw(40, 30, drawn.rgb().to_vec()).unwrap();
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        assert_eq!(digest(&read(&encoded(&rgb, format)).unwrap()), digest(&drawn), "{format:?}");
    }
    let seen = fixture_image("palette.seen.png");
    for name in ["palette.png", "palette.bmp", "palette.gif", "interlaced.gif"] {
        assert_eq!(digest(&fixture_image(name)), digest(&seen), "{name}");
    }
}

#[test]
fn what_decoding_drops_is_in_the_digest() {
    let drawn = fixture_image("drawn.png");
    for name in
        ["alpha.png", "alpha.webp", "animated.webp", "profile.png", "sixteen.png", "sixteen-interlaced.png"]
    {
        let image = fixture_image(name);
        assert_eq!(image.rgb(), drawn.rgb(), "{name}");
        assert!(!is_plain(&image), "{name}");
    }
    let animated = fixture_image("animated.gif");
    assert_eq!(animated.rgb(), fixture_image("palette.seen.png").rgb());
    assert!(!is_plain(&animated));
    let alpha = |name: &str| decode(&fixture(name), Reading::default()).unwrap().alpha;
    assert!(alpha("alpha.png") && alpha("alpha.webp") && alpha("lossy-alpha.webp") && !alpha("drawn.png"));
}

#[test]
fn a_lossy_picture_is_what_a_model_server_decodes_but_for_a_few_levels() {
    for name in [
        "baseline-444.jpg",
        "baseline-422.jpg",
        "baseline-420.jpg",
        "restarts.jpg",
        "optimised.jpg",
        "progressive-444.jpg",
        "progressive-420.jpg",
        "progressive-restarts.jpg",
        "grey.jpg",
        "progressive-grey.jpg",
        "cmyk.jpg",
        "turned.jpg",
        "lossy.webp",
        "lossy-alpha.webp",
    ] {
        let image = fixture_image(name);
        let seen = fixture_image(&format!("{}.seen.png", name.split('.').next().unwrap_or_default()));
        assert_eq!((image.width(), image.height()), (seen.width(), seen.height()), "{name}");
        let off = image.rgb().iter().zip(seen.rgb()).map(|(one, other)| one.abs_diff(*other)).max();
        assert!(off <= Some(6), "{name}: {off:?} levels off");
        assert!(!is_plain(&image), "{name}");
    }
}

#[test]
fn few_bits_are_spread_over_all_levels() {
    for depth in [1u32, 2, 4] {
        let steps = (0..8u32).flat_map(|y| (0..16).map(move |x| (x + y) % 16 % (1 << depth)));
        let grey: Vec<u8> =
            steps.clone().flat_map(|step| [(step * 255 / ((1 << depth) - 1)) as u8; 3]).collect();
        assert_eq!(fixture_image(&format!("grey-{depth}.png")).rgb(), grey);
        let palette: Vec<u8> = steps.flat_map(|step| [0, 1, 2].map(|at| (step * 3 + at) as u8)).collect();
        assert_eq!(fixture_image(&format!("palette-{depth}.png")).rgb(), palette);
    }
}

#[test]
fn a_torn_file_is_no_picture() {
    for name in [
        "drawn.png",
        "interlaced.png",
        "sixteen.png",
        "palette.bmp",
        "palette.gif",
        "interlaced.gif",
        "lossless.webp",
        "lossy.webp",
        "lossy-alpha.webp",
        "animated.webp",
        "baseline-420.jpg",
        "restarts.jpg",
        "progressive-420.jpg",
        "progressive-restarts.jpg",
        "grey.jpg",
        "cmyk.jpg",
    ] {
        let file = fixture(name);
        // Of an ending that says nothing but "the end" a picture may lack a part; no other.
        let ending = usize::from(name.ends_with("gif"));
        for length in 0..file.len() - ending {
            if let Ok(image) = read(&file[..length]) {
                unreachable!(
                    "{name}: {length} of {} bytes are {} x {}",
                    file.len(),
                    image.width(),
                    image.height()
                );
            }
        }
        let followed = [&file[..], b"what comes after"].concat();
        if !name.ends_with("gif") {
            assert_eq!(read(&followed).unwrap().rgb(), read(&file).unwrap().rgb(), "{name}");
        }
    }
}

#[test]
fn a_jpeg_that_was_cut_and_ended_again_is_no_picture() {
    for name in
        ["baseline-420.jpg", "baseline-444.jpg", "progressive-420.jpg", "progressive-444.jpg", "grey.jpg"]
    {
        let file = fixture(name);
        let scan = file.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
        let mut refused = 0;
        for length in scan + 14..file.len() - 2 {
            let cut = [&file[..length], &[0xff, 0xd9]].concat();
            match read(&cut) {
                Err(_) => refused += 1,
                // The last byte of a scan may be all padding.
                Ok(image) => {
                    assert!(length + 3 >= file.len(), "{name}: cut at {length} of {}", file.len());
                    assert_eq!(image.rgb(), read(&file).unwrap().rgb());
                }
            }
        }
        assert!(refused > 100, "{name}");
    }
}

#[test]
fn a_size_is_refused_before_it_is_decoded() {
    let png = |width: u32, height: u32| {
        let mut file = encoded(&drawn(4, 4), ImageFormat::Png);
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        file
    };
    let side = |width, height| Unreadable::Image(crate::judgment::ImageError::Side { width, height });
    for (width, height) in [(60_000, 60_000), (MAX_SIDE + 1, 1), (0, 5), (u32::MAX, u32::MAX)] {
        assert_eq!(read(&png(width, height)).unwrap_err(), side(width, height));
        assert_eq!(decode_bytes(&png(width, height), Reading::default()), 0);
    }
    let mut gif = encoded_gif();
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(read(&gif).unwrap_err(), side(65_535, 65_535));
    let mut bmp = encoded(&drawn(4, 4), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    assert!(matches!(read(&bmp), Err(Unreadable::Broken { format: "BMP", .. })));
    bmp[18..22].copy_from_slice(&(-4i32).to_le_bytes());
    assert!(matches!(read(&bmp), Err(Unreadable::Broken { format: "BMP", .. })));
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP, ImageFormat::Jpeg] {
        let file = encoded(&drawn(20, 10), format);
        let within = |most_pixels| Reading { most_pixels, ..Reading::default() };
        assert!(image(&file, within(200)).is_ok(), "{format:?}");
        let expected = Unreadable::Pixels { width: 20, height: 10, most: 199 };
        assert_eq!(image(&file, within(199)).unwrap_err(), expected, "{format:?}");
        assert!(decode_bytes(&file, within(200)) > 600 && decode_bytes(&file, within(199)) == 0);
    }
}

fn encoded_gif() -> Vec<u8> {
    fixture("palette.gif")
}

#[test]
fn rows_from_the_top_are_a_bitmap_too() {
    let picture = drawn(5, 4);
    let mut file = encoded(&picture, ImageFormat::Bmp);
    let offset = usize::from(file[10]);
    file[22..26].copy_from_slice(&(-4i32).to_le_bytes());
    let row = (file.len() - offset) / 4;
    let rows: Vec<u8> = file[offset..].chunks(row).rev().flatten().copied().collect();
    file.truncate(offset);
    file.extend(rows);
    assert_eq!(read(&file).unwrap().rgb(), picture.as_raw());
}

#[test]
fn what_fills_memory_and_decides_no_pixel_is_not_unpacked() {
    for name in ["profile-bomb.png", "text-bomb.png"] {
        let file = fixture(name);
        assert_eq!(fixture_image(name).width(), 4, "{name}");
        assert!(decode_bytes(&file, Reading::default()) < 600 << 10, "{name}");
    }
}

#[test]
fn a_picture_of_many_scans_is_refused() {
    let file = fixture("progressive-420.jpg");
    let scans: Vec<usize> =
        file.windows(2).enumerate().filter(|(_, two)| *two == [0xff, 0xda]).map(|(at, _)| at).collect();
    let last = *scans.last().unwrap();
    let scan = &file[last..file.len() - 2];
    let many = [&file[..last], &scan.repeat(200)[..], &[0xff, 0xd9]].concat();
    assert!(matches!(read(&many), Err(Unreadable::Broken { format: "JPEG", .. })));
}

#[test]
fn other_formats_are_named() {
    for (bytes, found) in [
        (&b""[..], "nothing"),
        (b"II*\0\x08\0\0\0", "a TIFF picture"),
        (b"\0\0\0\x1cftypavif", "an AVIF picture"),
        (b"\0\0\0\x1cftypheic", "a HEIF picture"),
        (b"\xff\x0a\0", "a JPEG XL picture"),
        (b"P6\n2 2\n255\n", "a PNM picture"),
        (b"%PDF-1.7", "a PDF document"),
        (b"a prompt", "text"),
        (b"\x01\x02\x03", "bytes that begin like none of them (01 02 03)"),
    ] {
        assert_eq!(read(bytes).unwrap_err(), Unreadable::Format(found.to_owned()));
    }
}

#[test]
fn a_model_that_crops_is_judged_by_what_it_sees() {
    let picture = drawn(40, 30);
    let sees = Some(super::super::tensor::Sees { resize: None, crop: [20, 10] });
    let reading = Reading { sees, ..Reading::default() };
    let seen = image::imageops::crop_imm(&picture, 10, 10, 20, 10).to_image();
    let image = image(&encoded(&picture, ImageFormat::Png), reading).unwrap();
    assert_eq!((image.width(), image.height(), image.rgb()), (20, 10, &seen.as_raw()[..]));
    assert!(is_plain(&image));
}

#[test]
fn plain_text_is_text_and_a_picture_in_words_is_not() {
    let prose = "Is this a cat? Ist das eine Katze? \u{4e2d}\u{6587}\r\n\tYes.";
    for text in ["", "a", prose, &"word ".repeat(13_000), "P10 is a paper size", "Base64: aGVsbG8gd29ybGQ="] {
        assert!(is_text(text.as_bytes()), "{text:.40}");
    }
    let base64 = |bytes: &[u8]| -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let three = bytes.chunks(3).map(|three| {
            three.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()))
        });
        three
            .flat_map(|bits| [18, 12, 6, 0].map(|at| char::from(ALPHABET[(bits >> at & 63) as usize])))
            .collect()
    };
    let mut written: Vec<String> =
        ["drawn.png", "baseline-420.jpg", "palette.gif", "lossy.webp", "palette.bmp"]
            .iter()
            .map(|name| base64(&fixture(name)))
            .collect();
    written.push(written[0].replace('+', "-").replace('/', "_"));
    written.push(written[1].chars().flat_map(|c| [c, '\n']).collect());
    written.push(format!("{{\"image\": \"{}\"}}", written[2]));
    written.push(format!("the picture follows {}", written[1]));
    for text in &written {
        assert!(!is_text(text.as_bytes()), "{text:.40}");
    }
    for text in [
        "P3\n1 1\n255\n1 2 3",
        "  \n<svg xmlns=\"\">",
        "<?xml version=\"1.0\"?>",
        "/* XPM */",
        "#define x_width 16",
        "%!PS-Adobe",
        "data:image/png;base64,AAAA",
        "DATA:,x",
        "BM as it begins",
        "GIF89a",
        "a\0b",
        "\u{1b}[0m",
        &"x".repeat(65_537),
    ] {
        assert!(!is_text(text.as_bytes()), "{text:.40}");
    }
    assert!(!is_text(b"\xff\xfe") && !is_text(&fixture("drawn.png")));
}

//! What decoding a picture takes stays within what its header announces: the proxy takes that much from a caller's budget first.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_types, reason = "it is the real time that decoding takes which counts here")]

use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};
use peak_alloc::PeakAlloc;
use refrain::protocol::encoded::{decode_bytes, image};
use refrain::protocol::tensor::{Reading, Sees};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes taken at the most while `work` ran, and whether it succeeded.
fn taken(work: impl FnOnce() -> bool) -> (usize, bool) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let succeeded = work();
    (ALLOCATOR.peak_usage() - before, succeeded)
}

fn written(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// Noise, so that no format has it easy.
fn drawn(width: u32, height: u32) -> DynamicImage {
    let mut state = 1u64;
    let picture = RgbImage::from_fn(width, height, |x, y| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = (state >> 60) as u8;
        Rgb([(x / 4) as u8 ^ noise, (y / 3) as u8, noise * 8 + (x / 9) as u8 / 2])
    });
    DynamicImage::ImageRgb8(picture)
}

/// One test, for the count is the whole process's.
#[test]
fn decoding_takes_no_more_than_the_header_announces() {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (width, height) in [(3, 3), (224, 224), (700, 500), (2000, 40), (40, 2000), (8000, 3)] {
        let picture = drawn(width, height);
        let forms = [
            ("grey", DynamicImage::ImageLuma8(picture.to_luma8())),
            ("rgb", picture.clone()),
            ("rgba", DynamicImage::ImageRgba8(picture.to_rgba8())),
            ("rgba16", DynamicImage::ImageRgba16(picture.to_rgba16())),
            ("black", DynamicImage::ImageLuma8(GrayImage::new(width, height))),
        ];
        for format in
            [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Gif]
        {
            for (form, picture) in &forms {
                let mut file = Cursor::new(Vec::new());
                if picture.write_to(&mut file, format).is_ok() {
                    files.push((format!("{format:?} {form} {width} x {height}"), file.into_inner()));
                }
            }
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoded");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with("py") && !name.ends_with("md") {
            files.push((name, std::fs::read(&path).unwrap()));
        }
    }
    let sees = Some(Sees { resize: None, crop: [500, 400] });
    for (name, file) in &files {
        for sees in [None, sees] {
            let reading = Reading { sees, ..Reading::default() };
            let (counting, _) = taken(|| decode_bytes(file, reading) > 0);
            assert!(counting < 64 << 10, "{name}: the bound alone took {counting}");
            let announced = decode_bytes(file, reading);
            let (taken, is_read) = taken(|| image(file, reading).is_ok());
            println!("{name}: {taken} of {announced} bytes");
            assert!(is_read, "{name}");
            assert!(taken <= announced, "{name}: {taken} bytes, {announced} announced");
        }
    }

    // What is refused by its header costs next to nothing.
    let mut bomb = written(&drawn(4, 4), ImageFormat::Png);
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let began = Instant::now();
    let (taken_by_bomb, is_read) = taken(|| image(&bomb, Reading::default()).is_ok());
    assert!(!is_read && taken_by_bomb < 64 << 10 && began.elapsed().as_millis() < 50);

    // Ten thousand frames cost one.
    let gif = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoded/palette.gif"))
        .unwrap();
    let frame = gif.windows(2).position(|two| two == [0x2c, 0]).unwrap();
    let frames = [&gif[..frame], &gif[frame..gif.len() - 1].repeat(10_000), b";"].concat();
    let began = Instant::now();
    let (taken_by_frames, is_read) = taken(|| image(&frames, Reading::default()).is_ok());
    println!("10,000 frames: {taken_by_frames} bytes, {:?}", began.elapsed());
    assert!(is_read && taken_by_frames <= decode_bytes(&gif, Reading::default()));
    assert!(began.elapsed().as_millis() < 200);
}

//! What holds for any picture and any bytes: one picture is one likeness in whatever form it comes, and no bytes make a reader
//! panic or return a picture beyond its limits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::io::Cursor;
use std::path::Path;

use half::{bf16, f16};
use image::{DynamicImage, ImageFormat, RgbImage};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use refrain::judgment::{Digest, Image, Judge, Rules};
use refrain::protocol::encoded;
use refrain::protocol::tensor::{self, Datatype, Layout, Range, Reading, Resize, Sees};

const TYPES: [Datatype; 12] = [
    Datatype::Uint8,
    Datatype::Int8,
    Datatype::Uint16,
    Datatype::Int16,
    Datatype::Uint32,
    Datatype::Int32,
    Datatype::Uint64,
    Datatype::Int64,
    Datatype::Fp16,
    Datatype::Bf16,
    Datatype::Fp32,
    Datatype::Fp64,
];

fn digest(image: &Image<'_>) -> Digest {
    Judge::new(Rules::hardened(), [7; 32]).likeness(image).digest()
}

/// A picture of up to 24 x 24 pixels; `colours` bounds how many it has.
fn picture(colours: usize) -> impl Strategy<Value = RgbImage> {
    (1u32..24, 1u32..24, prop::collection::vec(any::<[u8; 3]>(), 1..=colours)).prop_flat_map(
        |(width, height, palette)| {
            let pixels = (width * height) as usize;
            prop::collection::vec(select(palette), pixels)
                .prop_map(move |pixels| RgbImage::from_raw(width, height, pixels.into_flattened()).unwrap())
        },
    )
}

/// Whether every level of the range is a value of the type.
fn holds(datatype: Datatype, range: Range) -> bool {
    let whole = !datatype.is_float();
    match datatype {
        _ if whole && (range.scale[0] > 1.0) => false,
        Datatype::Uint8 => range == Range::LEVELS,
        Datatype::Int8 => range == Range::SHIFTED,
        Datatype::Int16 | Datatype::Fp16 => range != Range::WIDE,
        Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => range != Range::SHIFTED,
        // Eight bits of precision hold levels alone.
        Datatype::Bf16 => range == Range::LEVELS || range == Range::SHIFTED,
        _ => true,
    }
}

/// `rgb` as a row of this form: dimensions and values, each the one that lies nearest.
fn row(rgb: &RgbImage, datatype: Datatype, how: Reading) -> (Vec<i64>, Vec<u8>) {
    let range = how.range.unwrap();
    let (width, height) = (i64::from(rgb.width()), i64::from(rgb.height()));
    let value = |level: u8, colour: usize| {
        let value = (f64::from(level) - f64::from(range.offset[colour])) / f64::from(range.scale[colour]);
        let whole = value.round();
        match datatype {
            Datatype::Uint8 => vec![whole as u8],
            Datatype::Int8 => (whole as i8).to_le_bytes().to_vec(),
            Datatype::Uint16 => (whole as u16).to_le_bytes().to_vec(),
            Datatype::Int16 => (whole as i16).to_le_bytes().to_vec(),
            Datatype::Uint32 => (whole as u32).to_le_bytes().to_vec(),
            Datatype::Int32 => (whole as i32).to_le_bytes().to_vec(),
            Datatype::Uint64 => (whole as u64).to_le_bytes().to_vec(),
            Datatype::Int64 => (whole as i64).to_le_bytes().to_vec(),
            Datatype::Fp16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Datatype::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Datatype::Fp32 => (value as f32).to_le_bytes().to_vec(),
            Datatype::Fp64 => value.to_le_bytes().to_vec(),
            Datatype::Bool | Datatype::Bytes => unreachable!("no pixels"),
        }
    };
    let colour = |place: usize| if how.bgr { 2 - place } else { place };
    let values = match how.layout.unwrap() {
        Layout::Nchw => (0..3)
            .flat_map(|place| {
                rgb.pixels().flat_map(move |pixel| value(pixel.0[colour(place)], colour(place)))
            })
            .collect(),
        _ => rgb
            .pixels()
            .flat_map(|pixel| (0..3).flat_map(move |place| value(pixel.0[colour(place)], colour(place))))
            .collect(),
    };
    let dims = if how.layout == Some(Layout::Nchw) { vec![3, height, width] } else { vec![height, width, 3] };
    (dims, values)
}

fn file(rgb: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(rgb.clone()).write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn of(rgb: &RgbImage) -> Image<'_> {
    Image::new(rgb.width(), rgb.height(), rgb.as_raw().into()).unwrap()
}

fn fixtures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoded");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !matches!(path.extension().and_then(|of| of.to_str()), Some("py" | "md")));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Reads in every way; a picture, if there is one, keeps to the limits.
fn read_every_way(bytes: &[u8]) {
    const MOST: u32 = 3000;
    let sees = Some(Sees { resize: Some(Resize::Shorter(16)), crop: [12, 12] });
    for sees in [None, sees] {
        let reading = Reading { most_pixels: MOST, sees, ..Reading::default() };
        if let Ok(image) = encoded::image(bytes, reading) {
            assert!(image.width() * image.height() <= MOST);
            assert!(encoded::decode_bytes(bytes, reading) >= image.rgb().len());
        }
    }
    encoded::is_text(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_picture_is_one_likeness_as_whatever_tensor_it_comes(
        rgb in picture(400),
        datatype in select(TYPES.to_vec()),
        layout in select(vec![Layout::Nhwc, Layout::Nchw]),
        bgr in any::<bool>(),
        range in select(Range::NAMED.to_vec()),
        ones in 0usize..3,
    ) {
        let (name, range) = range;
        prop_assume!(holds(datatype, range));
        let how = Reading { layout: Some(layout), bgr, range: Some(range), ..Reading::default() };
        let (dims, values) = row(&rgb, datatype, how);
        let dims = [vec![1; ones], dims].concat();
        let image = tensor::image(datatype, &dims, &values, how).unwrap();
        prop_assert_eq!(image.rgb(), &rgb.as_raw()[..]);
        prop_assert_eq!(digest(&image), digest(&of(&rgb)), "{} {}", datatype, name);
    }

    #[test]
    fn one_picture_is_one_likeness_in_whatever_file_it_comes(
        rgb in picture(400),
        format in select(vec![ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP]),
    ) {
        let image = encoded::image(&file(&rgb, format), Reading::default()).unwrap();
        prop_assert_eq!(digest(&image), digest(&of(&rgb)));
    }

    #[test]
    fn a_gif_of_few_colours_has_the_pixels_it_was_made_of(rgb in picture(200)) {
        // The encoder writes an alpha palette, which the digest may cover; the pixels are those of the picture.
        let image = encoded::image(&file(&rgb, ImageFormat::Gif), Reading::default()).unwrap();
        prop_assert_eq!(image.rgb(), &rgb.as_raw()[..]);
    }

    #[test]
    fn any_bytes_are_a_reading_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600), magic in 0usize..6) {
        let magics: [&[u8]; 6] = [
            b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x40\x02\0\0WEBPVP8L",
        ];
        read_every_way(&[magics[magic], &bytes].concat());
    }

    #[test]
    fn any_change_of_a_file_is_a_reading_or_an_error(
        which in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        length in any::<Index>(),
        cut in any::<bool>(),
    ) {
        let fixtures = fixtures();
        let mut bytes = which.get(&fixtures).clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        read_every_way(&bytes);
    }

    #[test]
    fn any_tensor_is_a_reading_or_an_error(
        datatype in select(TYPES.to_vec()),
        dims in prop::collection::vec(prop_oneof![-1i64..9, Just(i64::MAX), Just(1 << 32), Just(16_385)], 0..5),
        layout in select(vec![None, Some(Layout::Nhwc), Some(Layout::Nchw), Some(Layout::Hw)]),
        bgr in any::<bool>(),
        range in select(vec![None, Some(Range::LEVELS), Some(Range::IMAGENET), Some(Range::WIDE)]),
        sees in select(vec![None, Some(Sees { resize: None, crop: [3, 2] })]),
        bytes in prop::collection::vec(any::<u8>(), 0..2048),
        fits in any::<bool>(),
    ) {
        let reading = Reading { layout, bgr, range, sees, most_pixels: 40 };
        let product = dims.iter().try_fold(1i64, |product, &dim| product.checked_mul(dim));
        let size = datatype.size().unwrap() as i64;
        let expected = product.and_then(|product| usize::try_from(product.checked_mul(size)?).ok());
        let row = match expected {
            Some(length) if fits && length <= 1 << 16 => bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { length }).collect(),
            _ => bytes,
        };
        if let Ok(image) = tensor::image(datatype, &dims, &row, reading) {
            prop_assert!(image.width() * image.height() <= 40);
        }
    }
}

#[test]
fn every_single_byte_of_a_small_file_may_be_anything() {
    for bytes in fixtures().iter().filter(|bytes| bytes.len() < 800) {
        for at in 0..bytes.len() {
            for change in [0x00, 0x01, 0x7f, 0xff, bytes[at] ^ 0x80, bytes[at].wrapping_add(1)] {
                let mut changed = bytes.clone();
                changed[at] = change;
                read_every_way(&changed);
            }
        }
    }
}

/// JPEG is not canonical, but near: who sends a picture again as a good JPEG sends a near-copy.
#[test]
fn a_photo_as_jpeg_is_a_near_copy_of_itself() {
    let judge = Judge::new(Rules::hardened(), [7; 32]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/photos");
    let mut photos: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    photos.retain(|path| path.extension().is_some_and(|of| of == "png"));
    photos.sort();
    for path in &photos {
        let photo = image::open(path).unwrap().into_rgb8();
        let mut jpeg = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&photo).unwrap();
        let jpeg = encoded::image(&jpeg, Reading::default()).unwrap();
        let bits = judge.distances(&judge.likeness(&of(&photo)), &judge.likeness(&jpeg)).bits;
        assert!(bits <= 10, "{}: {bits} bits", path.display());
    }
}

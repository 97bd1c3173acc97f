//! `refrain compare`: two picture files in, fingerprints, distances and rulings out, and a plain word where that cannot be.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgb, RgbImage};

fn compare(files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_refrain")).arg("compare").args(files).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The rulings under `paper` and `hardened`, by their first word.
fn rulings(text: &str) -> Vec<&str> {
    let rulings = text.lines().filter_map(|line| line.trim().strip_prefix("ruling"));
    rulings.filter_map(|ruling| ruling.trim().split(':').next()).collect()
}

fn photo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/photos").join(name)
}

/// The moose with what `change` does to it, as a PNG.
fn changed(into: &Path, change: impl Fn(&mut RgbImage)) -> PathBuf {
    let mut picture = image::open(photo("deer-moose.png")).unwrap().into_rgb8();
    change(&mut picture);
    let path = into.join("changed.png");
    picture.save(&path).unwrap();
    path
}

#[test]
fn two_different_photos_are_forwarded_and_everything_is_told() {
    let output = text(&compare(&[&photo("deer-moose.png"), &photo("bird-heron.png")]));
    assert_eq!(rulings(&output), ["forward", "forward"]);
    for word in ["32 x 32", "PNG", "fingerprint", "of 256", "of 1024", "of 64", "of 16", "reuse up to 10"] {
        assert!(output.contains(word), "{word} is missing:\n{output}");
    }
    let digits = |line: &&str| line.split_whitespace().any(|word| word.len() == 64);
    assert_eq!(output.lines().filter(digits).count(), 4, "two fingerprints under each profile");
    assert!(!output.contains("thumbnail"), "a picture of 32 x 32 is judged as it is");
}

#[test]
fn a_repeat_and_a_one_pixel_copy_are_replayed_and_a_patch_is_suspect() {
    let folder = tempfile::tempdir().unwrap();
    let first = photo("deer-moose.png");
    let repeat = text(&compare(&[&first, &first]));
    assert_eq!(rulings(&repeat), ["replay", "replay"]);
    assert!(repeat.contains("an exact repeat"));

    let pixel = changed(folder.path(), |picture| picture.put_pixel(3, 4, Rgb([255, 0, 255])));
    assert_eq!(rulings(&text(&compare(&[&first, &pixel]))), ["replay", "replay"]);

    let patch = changed(folder.path(), |picture| {
        (0..8).for_each(|y| (0..8).for_each(|x| picture.put_pixel(x, y, Rgb([255, 0, 255]))));
    });
    let output = text(&compare(&[&first, &patch]));
    assert_eq!(rulings(&output)[1], "suspect", "{output}");
}

#[test]
fn a_larger_picture_is_said_to_be_judged_by_its_thumbnail() {
    let folder = tempfile::tempdir().unwrap();
    let large = folder.path().join("large.png");
    let drawn = RgbImage::from_fn(400, 300, |x, y| Rgb([(x / 2) as u8, (y / 2) as u8, (x ^ y) as u8]));
    drawn.save(&large).unwrap();
    let output = text(&compare(&[&large, &large]));
    assert!(output.contains("400 x 300") && output.contains("thumbnail"), "{output}");
}

#[test]
fn every_format_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let first = photo("bird-heron.png");
    let picture = image::open(&first).unwrap().into_rgb8();
    // By its first bytes, whatever the file is called.
    for (ending, lossless) in [("png", true), ("bmp", true), ("webp", true), ("gif", false), ("jpg", false)] {
        let written = folder.path().join(format!("picture.{ending}"));
        picture.save(&written).unwrap();
        let unnamed = folder.path().join("picture");
        std::fs::rename(&written, &unnamed).unwrap();
        let output = text(&compare(&[&first, &unnamed]));
        assert_eq!(output.contains("an exact repeat"), lossless, "{ending}: {output}");
    }
}

#[test]
fn a_file_that_is_no_picture_is_named_with_what_was_expected_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let good = photo("bird-heron.png");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let png = std::fs::read(&good).unwrap();
    // A BMP header that claims sides of 60,000 pixels.
    let mut bomb = b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bomb.extend_from_slice(&60_000u32.to_le_bytes());
    bomb.extend_from_slice(&60_000u32.to_le_bytes());
    bomb.extend_from_slice(&[1, 0, 24, 0]);
    bomb.extend_from_slice(&[0; 24]);
    let mut wide = png.clone();
    wide[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0, 2]);
    let cases = [
        (write("words.txt", b"no picture"), "expected a JPEG, PNG, WebP, BMP or GIF picture, found text"),
        (write("noise", b"\x01\x02"), "expected a JPEG, PNG, WebP, BMP or GIF picture, found bytes"),
        (write("empty", b""), "found nothing"),
        (write("half.png", &png[..png.len() / 2]), "expected a whole PNG picture"),
        (write("bomb.bmp", &bomb), "expected a whole BMP picture, found: the file ends early"),
        (write("wide.png", &wide), "60000 x 2 pixels: each side must be 1 to 16384"),
        (folder.path().to_owned(), "found a directory"),
        (folder.path().join("nowhere.png"), "No such file"),
    ];
    for (path, expected) in cases {
        for files in [[&good, &path], [&path, &good]] {
            let output = compare(&files.map(PathBuf::as_path));
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(
                told.contains(expected) && told.contains(&path.display().to_string()),
                "{expected}: {told}"
            );
            assert!(output.stdout.is_empty());
        }
    }
    let both = compare(&[&folder.path().join("a"), &folder.path().join("b")]);
    assert_eq!(String::from_utf8(both.stderr).unwrap().lines().count(), 2, "both are named at once");
}

#[test]
fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    let one = compare(&[&photo("bird-heron.png")]);
    assert_eq!(one.status.code(), Some(64));
    assert!(String::from_utf8(one.stderr).unwrap().contains("Usage"));
    assert_eq!(compare(&[Path::new("--help")]).status.code(), Some(0));
}

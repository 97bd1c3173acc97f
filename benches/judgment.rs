//! What judgment costs: a picture's likeness by size and form, and a ruling against a full session.
//!
//! `cargo bench --bench judgment`, or one group of it: `cargo bench --bench judgment -- likeness`.

#![allow(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to measure")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use refrain::judgment::{Ghost, Image, Judge, Likeness, Reason, Rules, Standing};
use refrain::protocol::encoded;
use refrain::protocol::tensor::{self, Datatype, Layout, Range, Reading, Tensor};

// The allocator of the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Anchors of a full session, two segments of 128.
const ANCHORS: usize = 256;

/// Ghosts of a full session.
const GHOSTS: usize = 1024;

criterion_group!(benches, likeness, tensor_types, decode, digest, rule, distances);
criterion_main!(benches);

/// What a call does for each row: the tensor read, then its likeness.
fn likeness(criterion: &mut Criterion) {
    let judge = judge();
    let mut group = criterion.benchmark_group("likeness");
    for side in [32, 224] {
        for (form, datatype, layout, range) in [
            ("uint8-nhwc", Datatype::Uint8, Layout::Nhwc, Range::LEVELS),
            ("uint8-nchw", Datatype::Uint8, Layout::Nchw, Range::LEVELS),
            ("fp32-nhwc", Datatype::Fp32, Layout::Nhwc, Range::UNIT),
            ("fp32-nchw", Datatype::Fp32, Layout::Nchw, Range::IMAGENET),
        ] {
            let tensor = tensor(&smooth(side, 5), side, datatype, layout, range);
            let reading = Reading { layout: Some(layout), range: Some(range), ..Reading::default() };
            group.throughput(Throughput::Elements((side * side) as u64));
            group.bench_function(BenchmarkId::new(form, format!("{side}x{side}")), |bencher| {
                bencher.iter(|| {
                    let image = black_box(&tensor).image(0, 1, reading).unwrap();
                    judge.likeness(&image)
                });
            });
        }
    }
    group.finish();
}

/// One row of 224 x 224 into a picture, by number type: every level is one of the type, so that nothing is hashed here.
fn tensor_types(criterion: &mut Criterion) {
    const SIDE: i64 = 224;
    let mut group = criterion.benchmark_group("tensor");
    let levels = smooth(SIDE as usize, 5);
    let each = || levels.iter().copied();
    let forms: [(Datatype, Range, Vec<u8>); 8] = [
        (Datatype::Int8, Range::SHIFTED, each().map(|level| level ^ 0x80).collect()),
        (Datatype::Uint16, Range::LEVELS, each().flat_map(|level| u16::from(level).to_le_bytes()).collect()),
        (Datatype::Int32, Range::LEVELS, each().flat_map(|level| i32::from(level).to_le_bytes()).collect()),
        (Datatype::Int64, Range::LEVELS, each().flat_map(|level| i64::from(level).to_le_bytes()).collect()),
        (Datatype::Fp16, Range::LEVELS, each().flat_map(|of| half::f16::from(of).to_le_bytes()).collect()),
        (Datatype::Bf16, Range::LEVELS, each().flat_map(|of| half::bf16::from(of).to_le_bytes()).collect()),
        (Datatype::Fp32, Range::LEVELS, each().flat_map(|level| f32::from(level).to_le_bytes()).collect()),
        (Datatype::Fp64, Range::LEVELS, each().flat_map(|level| f64::from(level).to_le_bytes()).collect()),
    ];
    for (datatype, range, row) in &forms {
        let reading = Reading { range: Some(*range), ..Reading::default() };
        group.throughput(Throughput::Elements((SIDE * SIDE) as u64));
        group.bench_function(BenchmarkId::new(datatype.to_string(), "224x224"), |bencher| {
            bencher.iter(|| tensor::image(*datatype, &[SIDE, SIDE, 3], black_box(row), reading).unwrap());
        });
    }
    group.finish();
}

/// An encoded picture of 224 x 224, file to pixels.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let picture = image::RgbImage::from_raw(224, 224, smooth(224, 5)).unwrap();
    for format in [image::ImageFormat::Jpeg, image::ImageFormat::Png, image::ImageFormat::WebP] {
        let mut file = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut file, format).unwrap();
        let file = file.into_inner();
        group.throughput(Throughput::Elements(224 * 224));
        group.bench_function(BenchmarkId::new(format!("{format:?}"), "224x224"), |bencher| {
            bencher.iter(|| encoded::image(black_box(&file), Reading::default()).unwrap());
        });
        group.bench_function(BenchmarkId::new(format!("{format:?}-bound"), "224x224"), |bencher| {
            bencher.iter(|| encoded::decode_bytes(black_box(&file), Reading::default()));
        });
    }
    group.finish();
}

/// The part of a likeness that is the keyed digest of the exact pixels.
fn digest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    for side in [32, 224] {
        let pixels = smooth(side, 5);
        group.throughput(Throughput::Bytes(pixels.len() as u64));
        group.bench_function(format!("{side}x{side}"), |bencher| {
            bencher.iter(|| blake3::Hasher::new_keyed(&[1; 32]).update(black_box(&pixels)).finalize());
        });
    }
    group.finish();
}

/// One ruling, the anchors and ghosts as a full session has them.
fn rule(criterion: &mut Criterion) {
    let judge = judge();
    let make = |seed| judge.likeness(&Image::new(32, 32, smooth(32, seed).into()).unwrap());
    let all: Vec<Likeness> = (0..).map(make).take(ANCHORS + 1 + GHOSTS).collect();
    let (anchors, rest) = all.split_at(ANCHORS);
    let ghosts: Vec<Ghost> = rest[1..].iter().map(Likeness::ghost).collect();
    let ruled = |row: &Likeness, anchors: &[Likeness], ghosts: &[Ghost]| {
        let candidates = anchors.iter().map(|likeness| (likeness, Standing::SameView));
        judge.rule(row, candidates, ghosts.iter(), false)
    };
    // A row that comes near some drawing by chance would cost less than the worst case: take one that does not.
    let is_new = |row: &&Likeness| ruled(row, anchors, &ghosts).evidence.reason == Reason::New;
    let candidate_rows: Vec<Likeness> = (100_000..100_100).map(make).collect();
    let row = candidate_rows.iter().find(is_new).expect("most drawings are unlike most others");
    let copies: Vec<Likeness> = (0..ANCHORS)
        .map(|at| {
            let mut pixels = smooth(32, 7);
            pixels[at] ^= 1;
            judge.likeness(&Image::new(32, 32, pixels.into()).unwrap())
        })
        .collect();
    let copied = make(7);

    let mut group = criterion.benchmark_group("rule");
    group.bench_function("256-unrelated", |bencher| bencher.iter(|| ruled(black_box(row), anchors, &[])));
    group.bench_function("256-unrelated-1024-ghosts", |bencher| {
        bencher.iter(|| ruled(black_box(row), anchors, &ghosts));
    });
    group.bench_function("256-near-copies", |bencher| {
        bencher.iter(|| ruled(black_box(&copied), &copies, &[]));
    });
    group.finish();
}

/// Every measure of one pair, as a replay's evidence has it.
fn distances(criterion: &mut Criterion) {
    let judge = judge();
    let [one, other] =
        [1, 2].map(|seed| judge.likeness(&Image::new(32, 32, smooth(32, seed).into()).unwrap()));
    criterion.bench_function("distances", |bencher| {
        bencher.iter(|| judge.distances(black_box(&one), black_box(&other)));
    });
}

fn judge() -> Judge {
    Judge::new(Rules::hardened(), [1; 32])
}

/// `pixels` as a model would be sent them.
fn tensor(pixels: &[u8], side: usize, datatype: Datatype, layout: Layout, range: Range) -> Tensor {
    let plane = side * side;
    let ordered: Vec<(usize, u8)> = match layout {
        Layout::Nhwc | Layout::Hw => pixels.iter().enumerate().map(|(at, &level)| (at % 3, level)).collect(),
        Layout::Nchw => (0..3 * plane).map(|at| (at / plane, pixels[at % plane * 3 + at / plane])).collect(),
    };
    let value =
        |(channel, level): (usize, u8)| (f32::from(level) - range.offset[channel]) / range.scale[channel];
    let data: Vec<u8> = match datatype {
        Datatype::Uint8 => ordered.into_iter().map(|(_, level)| level).collect(),
        _ => ordered.into_iter().flat_map(|element| value(element).to_le_bytes()).collect(),
    };
    let side = side as i64;
    let dims = match layout {
        Layout::Nhwc | Layout::Hw => vec![side, side, 3],
        Layout::Nchw => vec![3, side, side],
    };
    Tensor { datatype, dims, data: data.into() }
}

/// A picture of soft shapes with a little noise, nearer to a photograph than noise alone: drawn colours at the knots of a
/// 4 x 4 grid, bilinear between them.
fn smooth(side: usize, seed: u64) -> Vec<u8> {
    let knots = drawn(75, seed);
    let noise = drawn(side * side * 3, seed + 1_000_000);
    let mut pixels = Vec::with_capacity(side * side * 3);
    for y in 0..side {
        for x in 0..side {
            let (across, down) = (x as f64 * 3.999 / side as f64, y as f64 * 3.999 / side as f64);
            let (column, row) = (across as usize, down as usize);
            let (u, v) = (across.fract(), down.fract());
            for channel in 0..3 {
                let knot = |row: usize, column: usize| f64::from(knots[(row * 5 + column) * 3 + channel]);
                let above = knot(row, column) * (1.0 - u) + knot(row, column + 1) * u;
                let below = knot(row + 1, column) * (1.0 - u) + knot(row + 1, column + 1) * u;
                let level = above * (1.0 - v) + below * v + f64::from(noise[pixels.len()]) / 16.0;
                pixels.push(level.min(255.0) as u8);
            }
        }
    }
    pixels
}

fn drawn(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(step).collect()
}

//! What `tensor.rs` promises, case by case.

use super::*;

const BGR: bool = true;

fn reading(layout: Layout, bgr: bool, range: Range) -> Reading {
    Reading { layout: Some(layout), bgr, range: Some(range), ..Reading::default() }
}

/// Numbers without order, the same on every machine.
fn drawn(seed: u64) -> impl FnMut() -> u8 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    }
}

/// `rgb` as a tensor of this form: every value placed one by one, the way the words say.
fn sent(rgb: &[[u8; 3]], (width, height): (usize, usize), datatype: Datatype, how: Reading) -> Tensor {
    let range = how.range.unwrap();
    let mut data = Vec::new();
    let mut put = |x: usize, y: usize, place: usize| {
        let colour = if how.bgr { 2 - place } else { place };
        let level = rgb[y * width + x][colour];
        match datatype {
            Datatype::Uint8 => data.push(level),
            _ => {
                let value = (f32::from(level) - range.offset[colour]) / range.scale[colour];
                data.extend(value.to_le_bytes());
            }
        }
    };
    let layout = how.layout.unwrap();
    let (outer, inner) = if layout == Layout::Nhwc { (1, 3) } else { (3, 1) };
    for plane in 0..outer {
        for y in 0..height {
            for x in 0..width {
                (0..inner).for_each(|channel| put(x, y, plane + channel));
            }
        }
    }
    let (width, height) = (width as i64, height as i64);
    let dims = if layout == Layout::Nhwc { vec![height, width, 3] } else { vec![3, height, width] };
    Tensor { datatype, dims, data: data.into() }
}

#[test]
fn one_picture_in_every_form_is_the_same_picture() {
    for (width, height) in [(1, 1), (2, 1), (5, 7), (32, 32), (33, 17)] {
        let mut number = drawn((width * height) as u64);
        let rgb: Vec<[u8; 3]> = (0..width * height).map(|_| [(); 3].map(|()| number())).collect();
        for layout in [Layout::Nhwc, Layout::Nchw] {
            for bgr in [false, BGR] {
                let levels = reading(layout, bgr, Range::LEVELS);
                let mut forms = vec![(Datatype::Uint8, levels)];
                forms.extend(Range::NAMED.map(|(_, range)| (Datatype::Fp32, reading(layout, bgr, range))));
                for (datatype, how) in forms {
                    let tensor = sent(&rgb, (width, height), datatype, how);
                    let image = tensor.image(0, 1, how).unwrap();
                    assert_eq!((image.width() as usize, image.height() as usize), (width, height));
                    assert_eq!(image.rgb(), rgb.as_flattened(), "{datatype:?}, {how:?}");
                    assert!(!image.is_clipped(), "{datatype:?}, {how:?}");
                }
            }
        }
    }
}

#[test]
fn each_row_is_its_own_picture() {
    let mut number = drawn(4);
    let rgb: Vec<[u8; 3]> = (0..3 * 35).map(|_| [(); 3].map(|()| number())).collect();
    for (datatype, layout, range) in [
        (Datatype::Uint8, Layout::Nhwc, Range::LEVELS),
        (Datatype::Fp32, Layout::Nchw, Range::SIGNED),
        (Datatype::Fp32, Layout::Nhwc, Range::IMAGENET),
    ] {
        let how = reading(layout, false, range);
        let rows: Vec<Tensor> = rgb.chunks(35).map(|row| sent(row, (5, 7), datatype, how)).collect();
        let data: Vec<u8> = rows.iter().flat_map(|row| row.data.to_vec()).collect();
        let batch = Tensor { data: data.into(), ..rows[0].clone() };
        for (row, expected) in rgb.chunks(35).enumerate() {
            assert_eq!(batch.image(row, 3, how).unwrap().rgb(), expected.as_flattened());
        }
    }
}

#[test]
fn grey_is_three_equal_channels() {
    let levels: Vec<u8> = (0..12).map(|at| at * 20).collect();
    let expected: Vec<u8> = levels.iter().flat_map(|&level| [level; 3]).collect();
    let floats: Vec<u8> = levels.iter().flat_map(|&level| (f32::from(level) / 255.0).to_le_bytes()).collect();
    for (layout, dims) in [(Layout::Nhwc, vec![3, 4, 1]), (Layout::Nchw, vec![1, 3, 4])] {
        for bgr in [false, BGR] {
            let of = |datatype, data: &[u8]| Tensor {
                datatype,
                dims: dims.clone(),
                data: Bytes::copy_from_slice(data),
            };
            let raw = of(Datatype::Uint8, &levels);
            let image = raw.image(0, 1, reading(layout, bgr, Range::LEVELS)).unwrap();
            assert_eq!((image.rgb(), image.width(), image.height()), (&expected[..], 4, 3));
            let float = of(Datatype::Fp32, &floats);
            assert_eq!(float.image(0, 1, reading(layout, bgr, Range::UNIT)).unwrap().rgb(), expected);
        }
    }
}

#[test]
fn rgb_bytes_are_shared_and_not_copied() {
    let tensor = Tensor { datatype: Datatype::Uint8, dims: vec![2, 2, 3], data: Bytes::from(vec![9; 12]) };
    let image = tensor.image(0, 1, reading(Layout::Nhwc, false, Range::LEVELS)).unwrap();
    assert_eq!(image.rgb().as_ptr(), tensor.data.as_ptr());
}

/// The conversion in plain words, one value at a time, against the one that is laid out for vector units.
#[test]
fn the_fast_conversion_finds_what_a_slow_one_finds() {
    let mut number = drawn(12);
    for round in 0..300 {
        let (width, height) = (1 + usize::from(number()) % 40, 1 + usize::from(number()) % 9);
        let channels = if round % 3 == 0 { 1 } else { 3 };
        let layout = if round % 2 == 0 { Layout::Nhwc } else { Layout::Nchw };
        let bgr = round % 5 == 0;
        let range = Range::NAMED[round % 4].1;
        let wild = round % 4 == 1;
        let values: Vec<f32> = (0..width * height * channels)
            .map(|_| {
                let unit = f32::from(u16::from_le_bytes([number(), number()])) / 65_535.0;
                let level = if wild { unit * 300.0 - 20.0 } else { unit * 255.0 };
                (level - range.offset[0]) / range.scale[0]
            })
            .collect();
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (w, h, c) = (width as i64, height as i64, channels as i64);
        let dims = if layout == Layout::Nhwc { vec![h, w, c] } else { vec![c, h, w] };
        let tensor = Tensor { datatype: Datatype::Fp32, dims, data: data.into() };
        let image = tensor.image(0, 1, reading(layout, bgr, range)).unwrap();

        let mut clipped = false;
        let mut expected = Vec::new();
        for at in 0..width * height {
            for colour in 0..3 {
                let place = if channels == 1 {
                    0
                } else if bgr {
                    2 - colour
                } else {
                    colour
                };
                let value = match layout {
                    Layout::Nhwc | Layout::Hw => values[at * channels + place],
                    Layout::Nchw => values[place * width * height + at],
                };
                let scaled = if channels == 1 { 0 } else { colour };
                let pixel = value * range.scale[scaled] + range.offset[scaled];
                clipped |= !(-0.5..=255.5).contains(&pixel);
                expected.push(pixel.clamp(0.0, 255.0).round_ties_even() as u8);
            }
        }
        assert_eq!(image.rgb(), expected, "round {round}");
        assert_eq!(image.is_clipped(), clipped, "round {round}");
    }
}

#[test]
fn a_value_outside_the_range_marks_the_picture_wherever_it_stands() {
    // 48 values: three whole blocks of sixteen, or four of twelve; 51 leave a rest.
    for side in [16, 17] {
        for at in 0..3 * side {
            for (value, is_clipped) in
                [(-0.5, false), (255.5, false), (-0.6, true), (256.0, true), (1e30, true), (-1e30, true)]
            {
                let mut values = vec![100f32; 3 * side];
                values[at] = value;
                let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                for (layout, dims) in
                    [(Layout::Nhwc, vec![1, side as i64, 3]), (Layout::Nchw, vec![3, 1, side as i64])]
                {
                    let data = Bytes::copy_from_slice(&data);
                    let tensor = Tensor { datatype: Datatype::Fp32, dims, data };
                    let image = tensor.image(0, 1, reading(layout, false, Range::LEVELS)).unwrap();
                    assert_eq!(image.is_clipped(), is_clipped, "{value} at {at} of {side}, {layout:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_is_no_picture_wherever_it_stands() {
    for at in 0..51 {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            let mut values = vec![0.5f32; 51];
            values[at] = value;
            let data: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into();
            for (layout, dims) in [(Layout::Nhwc, vec![1, 17, 3]), (Layout::Nchw, vec![3, 1, 17])] {
                let tensor = Tensor { datatype: Datatype::Fp32, dims, data: data.clone() };
                let known = reading(layout, false, Range::UNIT);
                assert_eq!(tensor.image(0, 1, known).unwrap_err(), Unreadable::NotFinite);
                let unknown = Reading { range: None, ..known };
                assert_eq!(tensor.image(0, 1, unknown).unwrap_err(), Unreadable::NotFinite);
            }
        }
    }
}

#[test]
fn floats_of_an_unknown_range_say_what_they_span() {
    let values: Vec<u8> = [0.25f32, -1.5, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor { datatype: Datatype::Fp32, dims: vec![1, 1, 3], data: values.into() };
    let unknown = Reading::default();
    let expected = Unreadable::RangeUnknown { least: -1.5, most: 2.0 };
    assert_eq!(tensor.image(0, 1, unknown).unwrap_err(), expected);
}

#[test]
fn values_tell_their_range() {
    for (least, most, name) in [
        (0.0, 1.0, "0..1"),
        (0.0, 0.2, "0..1"),
        (-1.0, 1.0, "-1..1"),
        (-0.3, 0.9, "-1..1"),
        (-2.1, 2.6, "imagenet"),
        (0.0, 255.0, "0..255"),
        (0.0, 12.0, "0..255"),
    ] {
        for datatype in [Datatype::Fp16, Datatype::Bf16, Datatype::Fp32, Datatype::Fp64] {
            assert_eq!(Range::guess(datatype, least, most).unwrap().0, name, "{least} to {most}");
        }
    }
    for (datatype, least, most, name) in [
        (Datatype::Uint8, 0.0, 1.0, Some("0..255")),
        (Datatype::Int8, 0.0, 1.0, Some("-128..127")),
        (Datatype::Int32, 0.0, 255.0, Some("0..255")),
        (Datatype::Uint16, 3.0, 40.0, Some("0..255")),
        (Datatype::Int64, -128.0, 127.0, Some("-128..127")),
        (Datatype::Uint16, 12.0, 65_535.0, Some("0..65535")),
        (Datatype::Uint32, 0.0, 40_000.0, Some("0..65535")),
        // Too narrow, 12 bits of a camera, and nothing on the list.
        (Datatype::Int32, 0.0, 1.0, None),
        (Datatype::Int32, -1.0, 1.0, None),
        (Datatype::Uint16, 0.0, 4095.0, None),
        (Datatype::Int16, -32_768.0, 32_767.0, None),
        (Datatype::Int32, -300.0, 300.0, None),
        (Datatype::Uint32, 0.0, 70_000.0, None),
    ] {
        let guess = Range::guess(datatype, least, most).map(|(name, _)| name);
        assert_eq!(guess, name, "{datatype}: {least} to {most}");
    }
}

#[test]
fn what_is_no_picture_says_so() {
    let reading = Reading { range: Some(Range::LEVELS), most_pixels: 10_000, ..Reading::default() };
    let of =
        |datatype, dims: &[i64], bytes: usize| image(datatype, dims, &vec![0; bytes], reading).map(|_| ());
    for dims in [
        &[][..],
        &[10],
        &[3, 3],
        &[2, 2, 2],
        &[2, 2, 2, 3],
        &[4, 4, 4, 4],
        &[16, 16, 16],
        &[-1, 4, 3],
        &[i64::MAX, i64::MAX, 3],
    ] {
        let found = of(Datatype::Uint8, dims, 12);
        assert_eq!(found, Err(Unreadable::Shape(dims.to_vec())));
        assert!(found.unwrap_err().to_string().contains(&format!("{dims:?}")));
    }
    for dims in [&[0, 4, 3], &[4, 0, 3], &[20_000, 1, 3]] {
        assert!(matches!(of(Datatype::Uint8, dims, 0), Err(Unreadable::Image(_))), "{dims:?}");
    }
    let found = of(Datatype::Fp64, &[101, 100, 3], 0);
    assert_eq!(found, Err(Unreadable::Pixels { width: 100, height: 101, most: 10_000 }));
    let found = of(Datatype::Fp64, &[2, 2, 3], 95);
    assert_eq!(found, Err(Unreadable::Length { expected: 96, found: 95 }));
    for datatype in [Datatype::Bool, Datatype::Bytes] {
        assert_eq!(of(datatype, &[4, 4, 3], 48), Err(Unreadable::Datatype(datatype)));
    }
    assert!(of(Datatype::Bool, &[4, 4, 3], 48).unwrap_err().to_string().ends_with("found BOOL"));
}

#[test]
fn dimensions_of_one_in_front_are_no_dimensions_of_the_picture() {
    let row: Vec<u8> = (0..12).collect();
    let of = |dims: &[i64], layout| {
        let reading = Reading { layout, ..Reading::default() };
        image(Datatype::Uint8, dims, &row, reading).map(|image| (image.width(), image.height()))
    };
    for (dims, layout, expected) in [
        (&[2, 2, 3][..], None, (2, 2)),
        (&[1, 2, 2, 3], None, (2, 2)),
        (&[1, 1, 2, 2, 3], Some(Layout::Nhwc), (2, 2)),
        (&[1, 3, 4, 1], Some(Layout::Nchw), (1, 4)),
        (&[1, 1, 2, 6], None, (6, 2)),
        (&[1, 2, 6], None, (6, 2)),
        (&[3, 4], Some(Layout::Hw), (4, 3)),
        (&[1, 3, 4], Some(Layout::Hw), (4, 3)),
        (&[1, 1, 12], Some(Layout::Hw), (12, 1)),
    ] {
        assert_eq!(of(dims, layout), Ok(expected), "{dims:?} as {layout:?}");
    }
    assert_eq!(of(&[3, 4], None), Err(Unreadable::Shape(vec![3, 4])), "a matrix is no picture of itself");
    assert_eq!(of(&[3, 4, 1], Some(Layout::Hw)), Err(Unreadable::Shape(vec![3, 4, 1])));
}

/// `levels` as values of this type and range, each the one that lies nearest.
fn values(datatype: Datatype, levels: &[u8], range: Range) -> Vec<u8> {
    let each = levels.iter().enumerate().map(|(at, &level)| {
        let (scale, offset) = (f64::from(range.scale[at % 3]), f64::from(range.offset[at % 3]));
        (f64::from(level) - offset) / scale
    });
    macro_rules! whole {
        ($type:ty) => {
            each.flat_map(|value| (value.round() as $type).to_le_bytes()).collect()
        };
    }
    match datatype {
        Datatype::Uint8 => whole!(u8),
        Datatype::Int8 => whole!(i8),
        Datatype::Uint16 => whole!(u16),
        Datatype::Int16 => whole!(i16),
        Datatype::Uint32 => whole!(u32),
        Datatype::Int32 => whole!(i32),
        Datatype::Uint64 => whole!(u64),
        Datatype::Int64 => whole!(i64),
        Datatype::Fp16 => each.flat_map(|value| half::f16::from_f64(value).to_le_bytes()).collect(),
        Datatype::Bf16 => each.flat_map(|value| half::bf16::from_f64(value).to_le_bytes()).collect(),
        Datatype::Fp32 => each.flat_map(|value| (value as f32).to_le_bytes()).collect(),
        Datatype::Fp64 => each.flat_map(f64::to_le_bytes).collect(),
        Datatype::Bool | Datatype::Bytes => unreachable!("no pixels"),
    }
}

fn digest(image: &Image<'_>) -> crate::judgment::Digest {
    let judge = crate::judgment::Judge::new(crate::judgment::Rules::hardened(), [7; 32]);
    judge.likeness(image).digest()
}

#[test]
fn every_level_in_every_type_and_range_is_that_very_level() {
    use Datatype::{Bf16, Fp16, Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64};
    // Every level in each channel.
    let levels: Vec<u8> =
        (0..=255).flat_map(|level: u8| [level, level.wrapping_mul(3), 255 - level]).collect();
    let known = |range| Reading { range: Some(range), ..Reading::default() };
    let expected = digest(&image(Uint8, &[16, 16, 3], &levels, Reading::default()).unwrap());
    let floats = [Fp16, Bf16, Fp32, Fp64];
    let wide = [Uint16, Int16, Uint32, Int32, Uint64, Int64];
    let mut forms: Vec<(Datatype, Range)> = wide.map(|datatype| (datatype, Range::LEVELS)).to_vec();
    forms.extend([Int8, Int16, Int32, Int64].map(|datatype| (datatype, Range::SHIFTED)));
    forms.extend([Uint16, Uint32, Int32, Uint64, Int64].map(|datatype| (datatype, Range::WIDE)));
    forms.extend(Range::NAMED.iter().flat_map(|(_, range)| floats.map(|datatype| (datatype, *range))));
    for (datatype, range) in forms {
        if datatype == Fp16 && range == Range::WIDE {
            continue; // 65,535 is more than the type holds.
        }
        let row = values(datatype, &levels, range);
        let found = image(datatype, &[16, 16, 3], &row, known(range)).unwrap();
        if datatype == Bf16 && range != Range::LEVELS {
            let off = found.rgb().iter().zip(&levels).map(|(found, level)| found.abs_diff(*level)).max();
            assert!(off <= Some(1), "{datatype} {range:?}: {off:?} levels off");
            continue;
        }
        assert_eq!(found.rgb(), levels, "{datatype} {range:?}");
        assert!(!found.is_clipped(), "{datatype} {range:?}");
        assert_eq!(digest(&found), expected, "{datatype} {range:?}");
    }
    let shifted = values(Int8, &levels, Range::SHIFTED);
    assert_eq!(digest(&image(Int8, &[16, 16, 3], &shifted, Reading::default()).unwrap()), expected);
}

#[test]
fn what_a_model_could_see_is_in_the_digest_and_what_lies_outside_is_clipped() {
    let of = |datatype, row: &[u8], range| {
        let reading = Reading { range: Some(range), ..Reading::default() };
        let found = image(datatype, &[1, 1, 3], row, reading).unwrap();
        (found.rgb().to_vec(), digest(&found), found.is_clipped())
    };
    let exact = of(Datatype::Uint8, &[100, 100, 100], Range::LEVELS);
    let three = |value: &[u8]| value.repeat(3);
    // The neighbours of a level, in types that have them.
    for (datatype, value, range) in [
        (Datatype::Uint16, 25_701u16.to_le_bytes().to_vec(), Range::WIDE),
        (Datatype::Int64, 25_699i64.to_le_bytes().to_vec(), Range::WIDE),
        (Datatype::Fp64, (100.1f64 / 255.0).to_le_bytes().to_vec(), Range::UNIT),
        (Datatype::Fp32, (100.1f32 / 255.0).to_le_bytes().to_vec(), Range::UNIT),
        (
            Datatype::Fp16,
            half::f16::from_bits(half::f16::from_f32(100.0 / 255.0).to_bits() + 2).to_le_bytes().to_vec(),
            Range::UNIT,
        ),
        (Datatype::Bf16, half::bf16::from_f32(100.0 / 255.0).to_le_bytes().to_vec(), Range::UNIT),
    ] {
        let found = of(datatype, &three(&value), range);
        assert_eq!(found.0, exact.0, "{datatype}");
        assert!(found.1 != exact.1 && !found.2, "{datatype}");
    }
    // What f32 cannot hold, or only as another number.
    for (datatype, value, level) in [
        (Datatype::Fp64, 1e300f64.to_le_bytes().to_vec(), 255),
        (Datatype::Fp64, (-1e300f64).to_le_bytes().to_vec(), 0),
        (Datatype::Int64, i64::MAX.to_le_bytes().to_vec(), 255),
        (Datatype::Int64, i64::MIN.to_le_bytes().to_vec(), 0),
        (Datatype::Uint64, u64::MAX.to_le_bytes().to_vec(), 255),
        (Datatype::Uint32, u32::MAX.to_le_bytes().to_vec(), 255),
        (Datatype::Int16, (-1i16).to_le_bytes().to_vec(), 0),
        (Datatype::Fp32, f32::MAX.to_le_bytes().to_vec(), 255),
    ] {
        assert_eq!(
            (of(datatype, &three(&value), Range::LEVELS).0, true),
            (vec![level; 3], of(datatype, &three(&value), Range::LEVELS).2)
        );
    }
    // Neighbours that are one number in f32 differ in the digest.
    let [one, other] = [1i64 << 60, (1 << 60) + 1]
        .map(|value| of(Datatype::Int64, &three(&value.to_le_bytes()), Range::LEVELS));
    assert!(one.1 != other.1 && one.2 && other.2);
}

#[test]
fn alpha_is_no_part_of_the_pixels_and_every_part_of_the_digest() {
    let rgba: Vec<u8> = (0..2 * 3 * 4).map(|at| at * 10).collect();
    let planar: Vec<u8> = (0..4).flat_map(|channel| rgba.iter().copied().skip(channel).step_by(4)).collect();
    let rgb: Vec<u8> = rgba.chunks(4).flat_map(|pixel| pixel[..3].to_vec()).collect();
    let bgr: Vec<u8> = rgb.chunks(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
    for datatype in [Datatype::Uint8, Datatype::Fp32, Datatype::Uint16, Datatype::Fp64] {
        for (source, layout, dims) in [(&rgba, Layout::Nhwc, [2, 3, 4]), (&planar, Layout::Nchw, [4, 2, 3])] {
            for (is_bgr, expected) in [(false, &rgb), (BGR, &bgr)] {
                let how = reading(layout, is_bgr, Range::LEVELS);
                let row = values(datatype, source, Range::LEVELS);
                let found = image(datatype, &dims, &row, how).unwrap();
                assert_eq!(found.rgb(), expected, "{datatype} {layout:?}");
                let mut other = row.clone();
                // The last value is alpha in either order.
                let last = values(datatype, &[7], Range::LEVELS);
                let at = other.len() - last.len();
                other[at..].copy_from_slice(&last);
                let other = image(datatype, &dims, &other, how).unwrap();
                assert_eq!(other.rgb(), expected);
                assert!(digest(&other) != digest(&found) && !found.is_clipped());
            }
        }
    }
    let mut row = values(Datatype::Fp32, &rgba, Range::LEVELS);
    row[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
    let how = reading(Layout::Nhwc, false, Range::LEVELS);
    assert_eq!(image(Datatype::Fp32, &[2, 3, 4], &row, how).unwrap_err(), Unreadable::NotFinite);
}

#[test]
fn what_the_model_does_not_see_is_no_part_of_the_picture() {
    let mut number = drawn(9);
    let rgb: Vec<u8> = (0..8 * 6 * 3).map(|_| number()).collect();
    let seen: Vec<u8> = (2..4).flat_map(|y| rgb[(y * 8 + 2) * 3..(y * 8 + 6) * 3].to_vec()).collect();
    let sees = Some(Sees { resize: None, crop: [4, 2] });
    let planar =
        |rgb: &[u8]| (0..3).flat_map(|at| rgb.iter().copied().skip(at).step_by(3)).collect::<Vec<u8>>();
    let expected = digest(&Image::new(4, 2, Cow::Borrowed(&seen)).unwrap());
    for outside in [0, 1] {
        let mut rgb = rgb.clone();
        rgb[5] ^= outside;
        for datatype in [Datatype::Uint8, Datatype::Int32, Datatype::Fp64] {
            for (row, layout, dims) in
                [(rgb.clone(), Layout::Nhwc, [6, 8, 3]), (planar(&rgb), Layout::Nchw, [3, 6, 8])]
            {
                let how = Reading { sees, ..reading(layout, false, Range::LEVELS) };
                let row = values(datatype, &row, Range::LEVELS);
                let found = image(datatype, &dims, &row, how).unwrap();
                assert_eq!(
                    (found.width(), found.height(), found.rgb()),
                    (4, 2, &seen[..]),
                    "{datatype} {layout:?}"
                );
                assert_eq!(digest(&found), expected);
            }
        }
    }
}

#[test]
fn a_difference_below_a_level_makes_another_exact_picture_of_the_same_pixels() {
    let judge = crate::judgment::Judge::new(crate::judgment::Rules::hardened(), [7; 32]);
    let reading = reading(Layout::Nhwc, false, Range::UNIT);
    let digest = |shift: f32| {
        let values = (0..48).map(|at| f32::from(at as u8 * 5) / 255.0 + shift / 255.0);
        let data = values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into();
        let tensor = Tensor { datatype: Datatype::Fp32, dims: vec![4, 4, 3], data };
        let image = tensor.image(0, 1, reading).unwrap();
        (image.rgb().to_vec(), judge.likeness(&image).digest(), image.is_clipped())
    };
    let (levels, exact, _) = digest(0.0);
    let (near_levels, near, clipped) = digest(0.2);
    assert_eq!(levels, near_levels);
    assert!(near != exact && near != digest(0.21).1 && !clipped);
    assert_eq!(digest(0.0001).1, exact, "the noise of arithmetic is no difference");
}

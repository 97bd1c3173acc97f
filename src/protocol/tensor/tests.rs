//! What `tensor.rs` promises, case by case.

use super::*;

const BGR: bool = true;

fn reading(layout: Layout, bgr: bool, range: Range) -> Reading {
    Reading { layout: Some(layout), bgr, range: Some(range) }
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
                    Layout::Nhwc => values[at * channels + place],
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
    let unknown = Reading { layout: None, bgr: false, range: None };
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
        assert_eq!(Range::guess(least, most).0, name, "{least} to {most}");
    }
}

#[test]
fn what_is_no_picture_says_so() {
    let of = |datatype, dims: &[i64]| {
        let tensor = Tensor { datatype, dims: dims.to_vec(), data: Bytes::from(vec![0; 4096]) };
        tensor.image(0, 1, Reading { layout: None, bgr: false, range: Some(Range::LEVELS) }).map(|_| ())
    };
    for dims in [&[][..], &[10], &[3, 3], &[2, 2, 2], &[1, 2, 2, 3], &[4, 4, 4], &[-1, 4, 3]] {
        assert_eq!(of(Datatype::Uint8, dims), Err(Unreadable::Shape(dims.to_vec())));
    }
    for dims in [&[0, 4, 3], &[4, 0, 3], &[20_000, 1, 3]] {
        assert!(matches!(of(Datatype::Uint8, dims), Err(Unreadable::Image(_))), "{dims:?}");
    }
    for datatype in [Datatype::Bool, Datatype::Int8, Datatype::Fp16, Datatype::Fp64, Datatype::Bytes] {
        assert_eq!(of(datatype, &[4, 4, 3]), Err(Unreadable::Datatype(datatype)));
    }
}

#[test]
fn a_difference_below_a_level_makes_another_exact_picture_of_the_same_pixels() {
    let judge = crate::judgment::Judge::new(crate::judgment::Rules::hardened(), [7; 32]);
    let reading = Reading { layout: Some(Layout::Nhwc), bgr: false, range: Some(Range::UNIT) };
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

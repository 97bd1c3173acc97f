//! What is asked: payloads by name, and their pictures, each unlike all others, made from a seed before anything is timed.

use bytes::{BufMut, Bytes, BytesMut};
use image::codecs::jpeg::JpegEncoder;
use prost::Message;
use refrain::protocol::pb;

/// Pictures of a payload: more than a session remembers (128 anchors, 128 that were hit, 1,024 ghosts) and than are under way, so that one may
/// come again when all the others have been.
const POOL: usize = 1536;

/// Knots of a picture's side: what differs from picture to picture is as large as what judgment compares.
const KNOTS: usize = 8;

/// How pixels travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Uint8,
    Fp32,
    Jpeg,
}

/// One kind of request.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    /// The model that is asked: of our own upstream, unless it is named otherwise.
    pub(crate) model: String,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rows: usize,
    pub(crate) form: Form,
    /// Requests that are made of it.
    pub(crate) pool: usize,
}

/// A model of our own upstream: its name, and how many scores it gives.
pub(crate) const MODELS: [(&str, usize); 5] =
    [("u8-32", 10), ("u8-224", 1000), ("f32-224", 1000), ("jpeg-224", 1000), ("jpeg-1080", 1000)];

impl Payload {
    /// The payload of this name; `rows-N` is a batch of N small pictures.
    pub(crate) fn named(name: &str) -> Self {
        let small =
            Self { model: "u8-32".into(), width: 32, height: 32, rows: 1, form: Form::Uint8, pool: POOL };
        let middle = Self { model: "u8-224".into(), width: 224, height: 224, ..small.clone() };
        match name {
            "3KiB" => small,
            "147KiB" => middle,
            "588KiB" => Self { model: "f32-224".into(), form: Form::Fp32, ..middle },
            "jpeg-224" => Self { model: "jpeg-224".into(), form: Form::Jpeg, ..middle },
            "jpeg-1080p" => Self {
                model: "jpeg-1080".into(),
                width: 1920,
                height: 1080,
                form: Form::Jpeg,
                pool: 96,
                ..small
            },
            _ => {
                let rows = name.strip_prefix("rows-").and_then(|rows| rows.parse().ok());
                let rows: usize = rows.expect("3KiB, 147KiB, 588KiB, jpeg-224, jpeg-1080p or rows-N");
                Self { rows, pool: POOL.div_ceil(rows).max(256), ..small }
            }
        }
    }

    /// Whether a picture may come again in the same session, once all others have been.
    pub(crate) fn outlives_a_session(&self) -> bool {
        self.pool * self.rows >= POOL
    }

    /// All requests, prefix and all.
    pub(crate) fn requests(&self, seed: u64) -> Vec<Bytes> {
        (0..self.pool as u64).map(|at| self.request(seed << 32 | at)).collect()
    }

    /// The pixels of all its pictures, where a request holds one.
    pub(crate) fn pixels(&self, seed: u64) -> Vec<Bytes> {
        (0..self.pool as u64).map(|at| drawn(self.width, self.height, seed << 32 | at).into()).collect()
    }

    /// One request, prefix and all.
    pub(crate) fn request(&self, seed: u64) -> Bytes {
        let picture =
            |row| drawn(self.width, self.height, (seed * self.rows as u64).wrapping_add(row as u64));
        let pictures = (0..self.rows).map(picture);
        let data: Vec<u8> = match self.form {
            Form::Uint8 => pictures.flatten().collect(),
            Form::Fp32 => {
                pictures.flatten().flat_map(|level| (f32::from(level) / 255.0).to_le_bytes()).collect()
            }
            Form::Jpeg => pictures.flat_map(|pixels| element(&self.jpeg(&pixels))).collect(),
        };
        let (datatype, shape) = match self.form {
            Form::Uint8 => ("UINT8", vec![self.rows, self.height, self.width, 3]),
            Form::Fp32 => ("FP32", vec![self.rows, self.height, self.width, 3]),
            Form::Jpeg => ("BYTES", vec![self.rows, 1]),
        };
        framed(&pb::ModelInferRequest {
            model_name: self.model.clone(),
            inputs: vec![pb::model_infer_request::InferInputTensor {
                name: "image".into(),
                datatype: datatype.into(),
                shape: shape.into_iter().map(|size| size as i64).collect(),
                ..Default::default()
            }],
            raw_input_contents: vec![data.into()],
            ..Default::default()
        })
    }

    fn jpeg(&self, pixels: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let (width, height) = (self.width as u32, self.height as u32);
        JpegEncoder::new_with_quality(&mut file, 90)
            .encode(pixels, width, height, image::ExtendedColorType::Rgb8)
            .expect("a picture of a size that JPEG has");
        file
    }

    /// A near-copy: `request` with one pixel of its last picture set to a level that `lot` draws. Tensors alone have one.
    pub(crate) fn near_copy(&self, request: &Bytes, lot: u64) -> Bytes {
        let size = if self.form == Form::Fp32 { 4 } else { 1 };
        let mut copy = BytesMut::from(&request[..]);
        let pixel = (lot >> 32) as usize % (self.width * self.height);
        // The pixels are the message's last field.
        let at = copy.len() - (pixel + 1) * 3 * size;
        let level = lot as u8;
        for channel in 0..3 {
            match self.form {
                Form::Uint8 => copy[at + channel] = copy[at + channel].wrapping_add(level | 1),
                Form::Fp32 => {
                    let at = at + channel * 4;
                    copy[at..at + 4].copy_from_slice(&(f32::from(level) / 255.0).to_le_bytes());
                }
                Form::Jpeg => unreachable!("near-copies are made of tensors"),
            }
        }
        copy.freeze()
    }
}

/// One element of a BYTES tensor: its length stands before it.
fn element(file: &[u8]) -> Vec<u8> {
    let mut element = (file.len() as u32).to_le_bytes().to_vec();
    element.extend_from_slice(file);
    element
}

/// A gRPC message with its prefix.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).expect("a BytesMut grows as needed");
    frame.freeze()
}

/// A picture: drawn colours at the knots of a grid, straight lines between them along rows and columns, and a little noise, so that it
/// compresses as a photograph does.
fn drawn(width: usize, height: usize, seed: u64) -> Vec<u8> {
    let mut lots = Lots(mixed(seed));
    let knots: Vec<u8> = (0..(KNOTS + 1) * (KNOTS + 1) * 3).map(|_| (lots.next() >> 56) as u8).collect();
    let mut pixels = Vec::with_capacity(width * height * 3);
    let mut noise = 0;
    for y in 0..height {
        let (knot_row, down) = (y * KNOTS / height, y * KNOTS % height * 256 / height);
        for x in 0..width {
            let (knot_column, across) = (x * KNOTS / width, x * KNOTS % width * 256 / width);
            noise = if x % 8 == 0 { lots.next() } else { noise >> 6 };
            for channel in 0..3 {
                let knot = |row: usize, column: usize| {
                    usize::from(knots[(row * (KNOTS + 1) + column) * 3 + channel])
                };
                let above =
                    knot(knot_row, knot_column) * (256 - across) + knot(knot_row, knot_column + 1) * across;
                let below = knot(knot_row + 1, knot_column) * (256 - across)
                    + knot(knot_row + 1, knot_column + 1) * across;
                let level = (above * (256 - down) + below * down) >> 16;
                pixels.push((level + (noise >> (2 * channel) & 7) as usize).min(255) as u8);
            }
        }
    }
    pixels
}

/// Numbers in order become numbers without any: the finish of `SplitMix64`.
pub(crate) fn mixed(mut x: u64) -> u64 {
    x = x.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Lots from a seed: cheap, and the same on every machine.
pub(crate) struct Lots(pub(crate) u64);

impl Lots {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        mixed(self.0)
    }
}

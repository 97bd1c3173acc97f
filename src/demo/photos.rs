//! The twelve photographs, with their credits; `photos/README.md` has the sources and licences in full.

use bytes::{BufMut, Bytes, BytesMut};

use super::DemoError;

/// Pixels along each side of a picture that the model takes.
pub const SIDE: usize = 32;

/// A picture as the attacker holds it: 8-bit RGB, 32 x 32, row-major. What is sent are its levels divided by 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    rgb: Vec<u8>,
}

impl Picture {
    /// The pixel at column `x` of row `y`, both below [`SIDE`].
    pub fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let start = 3 * (y * SIDE + x);
        [self.rgb[start], self.rgb[start + 1], self.rgb[start + 2]]
    }

    /// Changes that pixel.
    pub fn set(&mut self, x: usize, y: usize, rgb: [u8; 3]) {
        let start = 3 * (y * SIDE + x);
        self.rgb[start..start + 3].copy_from_slice(&rgb);
    }

    /// The model's input: FP32, little-endian, height x width x channels, 0..1.
    pub fn tensor(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(4 * self.rgb.len());
        self.rgb.iter().for_each(|level| bytes.put_f32_le(f32::from(*level) / 255.0));
        bytes.freeze()
    }

    /// It as a PNG file.
    pub fn png(&self) -> Result<Vec<u8>, DemoError> {
        let mut file = Vec::new();
        let side = SIDE as u32;
        image::ImageEncoder::write_image(
            image::codecs::png::PngEncoder::new(&mut file),
            &self.rgb,
            side,
            side,
            image::ExtendedColorType::Rgb8,
        )
        .map_err(|error| DemoError::Page(error.to_string()))?;
        Ok(file)
    }

    /// One grey level everywhere, for tests of attacks that need no photograph.
    #[cfg(test)]
    pub(super) fn grey(level: u8) -> Self {
        Self { rgb: vec![level; 3 * SIDE * SIDE] }
    }
}

/// A photograph and whom it is from.
#[derive(Clone, Debug)]
pub struct Photo {
    /// Its file's name without the ending; the first word is its class.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Who took it.
    pub author: &'static str,
    /// Under which licence it is here.
    pub licence: &'static str,
    /// The photograph.
    pub picture: Picture,
}

impl Photo {
    /// The class that it shows.
    pub fn class(&self) -> &'static str {
        self.name.split('-').next().unwrap_or(self.name)
    }
}

/// All of them, in the order in which they are told.
pub fn all() -> Result<Vec<Photo>, DemoError> {
    FILES.iter().map(File::open).collect()
}

struct File {
    name: &'static str,
    shows: &'static str,
    author: &'static str,
    licence: &'static str,
    png: &'static [u8],
}

impl File {
    fn open(&self) -> Result<Photo, DemoError> {
        let refuse = |why: String| DemoError::Photo { name: self.name, why };
        let decoded = image::load_from_memory_with_format(self.png, image::ImageFormat::Png)
            .map_err(|error| refuse(error.to_string()))?
            .into_rgb8();
        let (width, height) = decoded.dimensions();
        if (width as usize, height as usize) != (SIDE, SIDE) {
            return Err(refuse(format!("expected {SIDE} x {SIDE} pixels, found {width} x {height}")));
        }
        let &Self { name, shows, author, licence, .. } = self;
        Ok(Photo { name, shows, author, licence, picture: Picture { rgb: decoded.into_raw() } })
    }
}

macro_rules! file {
    ($name:literal, $shows:literal, $author:literal, $licence:literal) => {
        File {
            name: $name,
            shows: $shows,
            author: $author,
            licence: $licence,
            png: include_bytes!(concat!("photos/", $name, ".png")),
        }
    };
}

const FILES: [File; 12] = [
    file!("bird-gosling", "greylag gosling", "Stephan Sprinz", "CC BY-SA 4.0"),
    file!("bird-heron", "purple heron in flight", "Stephan Sprinz", "CC BY-SA 4.0"),
    file!("bird-kingfisher", "kingfisher", "Frank-2.0", "CC0 1.0"),
    file!("bird-penguin", "chinstrap penguin", "Gordon Leggett / Wikimedia Commons", "CC BY-SA 4.0"),
    file!("cat-kitten", "kitten on a fence", "GalgenTX", "CC BY 2.0"),
    file!("cat-wool", "kitten with a ball of wool", "Loliloli", "public domain"),
    file!("deer-moose", "moose", "Ryan Hagerty", "public domain"),
    file!("dog-samoyeds", "two Samoyeds", "Joao Eriberto Mota Filho", "CC BY-SA 4.0"),
    file!("dog-shepherd", "German shepherd", "Hans Kemperman", "public domain"),
    file!("dog-spaniel", "spaniel at a window", "Aitzol Berasategi", "CC BY 4.0"),
    file!("horse-nokota", "Nokota horse", "Seth Zeigler", "CC0 1.0"),
    file!("horse-zaniskari", "Zaniskari horse", "Eatcha", "CC BY-SA 4.0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_photograph_opens_and_is_credited_as_in_its_readme() {
        let readme = include_str!("photos/README.md");
        for Photo { name, shows, author, licence, .. } in all().unwrap() {
            let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}.png` | {shows} |")));
            let row = row.unwrap_or_else(|| panic!("{name} is not in the README"));
            assert!(row.ends_with(&format!("| {author} | {licence} |")), "{row}");
        }
    }

    #[test]
    fn a_pixel_that_is_set_is_there_and_nowhere_else() {
        let mut picture = Picture::grey(7);
        picture.set(31, 2, [1, 2, 3]);
        assert_eq!((picture.at(31, 2), picture.at(30, 2), picture.at(0, 3)), ([1, 2, 3], [7; 3], [7; 3]));
        let tensor = picture.tensor();
        let at = 4 * 3 * (2 * SIDE + 31);
        assert_eq!(tensor.len(), 12_288);
        assert_eq!(tensor[at + 8..at + 12], (3.0f32 / 255.0).to_le_bytes());
    }
}

//! What a model's values mean: the closed list of ranges, and which of them some values suggest.

use super::Datatype;

/// How values become pixels: `pixel = value * scale + offset`, per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Levels per unit.
    pub scale: [f32; 3],
    /// The level of the value 0.
    pub offset: [f32; 3],
}

impl Range {
    /// Values are levels.
    pub const LEVELS: Self = Self { scale: [1.0; 3], offset: [0.0; 3] };
    /// 0 is black, 1 is white.
    pub const UNIT: Self = Self { scale: [255.0; 3], offset: [0.0; 3] };
    /// -1 is black, 1 is white.
    pub const SIGNED: Self = Self { scale: [127.5; 3], offset: [127.5; 3] };
    /// Less the ImageNet mean, divided by its deviation (red, green, blue: 0.485 0.456 0.406; 0.229 0.224 0.225).
    pub const IMAGENET: Self = Self {
        scale: [0.229 * 255.0, 0.224 * 255.0, 0.225 * 255.0],
        offset: [0.485 * 255.0, 0.456 * 255.0, 0.406 * 255.0],
    };
    /// Levels less 128, as quantised models take them.
    pub const SHIFTED: Self = Self { scale: [1.0; 3], offset: [128.0; 3] };
    /// 0 is black, 65,535 is white.
    pub const WIDE: Self = Self { scale: [1.0 / 257.0; 3], offset: [0.0; 3] };

    /// The closed list, as settings write it.
    pub const NAMED: [(&'static str, Self); 6] = [
        ("0..255", Self::LEVELS),
        ("0..1", Self::UNIT),
        ("-1..1", Self::SIGNED),
        ("imagenet", Self::IMAGENET),
        ("-128..127", Self::SHIFTED),
        ("0..65535", Self::WIDE),
    ];

    /// The range of a type that leaves no choice: bytes are levels, signed bytes are levels less 128.
    pub fn certain(datatype: Datatype) -> Option<Self> {
        match datatype {
            Datatype::Uint8 => Some(Self::LEVELS),
            Datatype::Int8 => Some(Self::SHIFTED),
            _ => None,
        }
    }

    /// The range of the closed list that values between `least` and `most`, those of several pictures, fit best; none where
    /// no guess is safe.
    ///
    /// Floats always fit one: ImageNet-normalised values lie between -2.2 and 2.7, so what goes beyond +-1 without reaching 3
    /// is taken for them. Integers must fill their range: several photographs span 16 levels at the least, and 16-bit ones pass
    /// the middle. Values up to 4095, say, are 12 bits of a camera and on no list: read as 16 bits they would all be dark, and
    /// different pictures alike.
    pub fn guess(datatype: Datatype, least: f32, most: f32) -> Option<(&'static str, Self)> {
        const DARKEST_SPAN: f32 = 16.0;
        if let Some(certain) = Self::certain(datatype) {
            return Self::NAMED.into_iter().find(|(_, range)| *range == certain);
        }
        let at = if datatype.is_float() {
            match (least, most) {
                (_, most) if most > 3.0 => 0,
                (least, most) if least < -1.001 || most > 1.001 => 3,
                (least, _) if least < -0.001 => 2,
                _ => 1,
            }
        } else {
            match (least, most) {
                (least, most) if most - least < DARKEST_SPAN => return None,
                (0.0.., ..=255.0) => 0,
                (-128.0..0.0, ..=127.0) => 4,
                (0.0.., 32_768.0..=65_535.0) => 5,
                _ => return None,
            }
        };
        Some(Self::NAMED[at])
    }
}

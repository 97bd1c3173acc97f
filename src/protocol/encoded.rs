//! Encoded pictures.

use super::tensor::{Datatype, Reading, Unreadable};
use crate::judgment::Image;

/// One encoded picture.
pub fn image(_: &[u8], _: Reading) -> Result<Image<'static>, Unreadable> {
    Err(Unreadable::Datatype(Datatype::Bytes))
}

/// Peak memory.
pub fn decode_bytes(_: &[u8], _: Reading) -> usize {
    0
}

/// Whether it is plain text.
pub fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

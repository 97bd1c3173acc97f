//! One Example: its features by name, read so that no parser can read them otherwise.
//!
//! A model parses Examples by a parser of its own, made for speed, which takes the first list of a feature where protobuf takes
//! the last, passes over features without a list, and knows no groups. What the two would read differently is refused here; no
//! library writes it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::protocol::query::Refusal;
use crate::protocol::wire::{self, Field};

/// The first byte of each field's only spelling that all parsers know.
const FIRST: u8 = 0x0a;
const SECOND: u8 = 0x12;
const THIRD: u8 = 0x1a;

/// The values of a feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Feature {
    /// Those of a list of bytes.
    Bytes(Vec<Bytes>),
    /// A list of floats, as it is written.
    Floats(Bytes),
    /// A list of integers, as it is written.
    Integers(Bytes),
    /// No list.
    Absent,
}

impl Feature {
    /// Bytes of its values.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Bytes(values) => values.iter().map(Bytes::len).sum(),
            Self::Floats(list) | Self::Integers(list) => list.len(),
            Self::Absent => 0,
        }
    }
}

/// Features by their names.
pub(super) type Features = BTreeMap<Bytes, Feature>;

/// Reads one Example. Shares its memory.
pub(super) fn read(example: &Bytes) -> Result<Features, Refusal> {
    let mut features = Features::new();
    each(example, example, |field| match field.whole[0] {
        FIRST => each(example, field.content, |field| match field.whole[0] {
            FIRST => {
                let (name, feature) = entry(example, field.content)?;
                match features.insert(name, feature) {
                    None => Ok(()),
                    Some(_) => Err(ambiguous("a feature twice")),
                }
            }
            _ => Err(ambiguous("unknown fields of its features")),
        }),
        _ => Err(ambiguous("unknown fields")),
    })?;
    Ok(features)
}

/// One name with its feature.
fn entry(example: &Bytes, entry: &[u8]) -> Result<(Bytes, Feature), Refusal> {
    let (mut name, mut feature) = (None, None);
    each(example, entry, |field| {
        let once = match field.whole[0] {
            FIRST => name.replace(example.slice_ref(field.content)).is_none(),
            SECOND => feature.replace(list(example, field.content)?).is_none(),
            _ => false,
        };
        if once { Ok(()) } else { Err(ambiguous("unknown fields of a feature's entry")) }
    })?;
    // Some libraries leave out what is empty.
    let (name, feature) = (name.unwrap_or_default(), feature.unwrap_or(Feature::Absent));
    if std::str::from_utf8(&name).is_err() {
        return Err(Refusal::Malformed("Could not parse example input: a name that is no text".into()));
    }
    Ok((name, feature))
}

/// The one list of a feature.
fn list(example: &Bytes, feature: &[u8]) -> Result<Feature, Refusal> {
    let mut list = Feature::Absent;
    each(example, feature, |field| {
        if list != Feature::Absent {
            return Err(ambiguous("a feature with two lists"));
        }
        list = match field.whole[0] {
            FIRST => {
                let mut values = Vec::new();
                each(example, field.content, |value| {
                    if value.whole[0] != FIRST {
                        return Err(ambiguous("unknown fields of a list"));
                    }
                    values.push(example.slice_ref(value.content));
                    Ok(())
                })?;
                Feature::Bytes(values)
            }
            SECOND => Feature::Floats(example.slice_ref(field.content)),
            THIRD => Feature::Integers(example.slice_ref(field.content)),
            _ => return Err(ambiguous("a list of an unknown kind")),
        };
        Ok(())
    })?;
    Ok(list)
}

/// Does `with` each field of `message`, a part of `example`, which must be fields to its end.
fn each<'a>(
    example: &Bytes,
    message: &'a [u8],
    mut with: impl FnMut(Field<'a>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut read = 0;
    for field in wire::fields(message) {
        read += field.whole.len();
        with(field)?;
    }
    if read == message.len() {
        return Ok(());
    }
    Err(Refusal::Malformed(format!("Could not parse example input of {} bytes", example.len())))
}

fn ambiguous(what: &str) -> Refusal {
    Refusal::Dangerous(format!("an Example that not every parser reads alike: {what}"))
}

#[cfg(test)]
mod tests;

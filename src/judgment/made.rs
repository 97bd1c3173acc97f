//! Likenesses made to measure, for the unit tests of rulings: each distance is set on its own.

use super::Judge;
use super::fingerprint::Fingerprint;
use super::image::Image;
use super::likeness::Likeness;
use super::palette::Palette;
use super::rules::Rules;
use super::ruling::{Judgment, Standing};
use super::thumbnail::{Thumbnail, thumbnail_of};

pub(super) fn judge(rules: Rules) -> Judge {
    Judge::new(rules, [42; 32])
}

/// A row and an anchor that are as near as the guard allows and yet in no radius: 128 bits apart, all 1,024
/// positions by 10 levels in one channel, all fine cells by 20, coarse cells by 60 up and down in turns; grey.
pub(super) fn neutral() -> (Likeness, Likeness) {
    let Ok(image) = Image::new(32, 32, vec![100; 32 * 32 * 3].into()) else { unreachable!("the sides fit") };
    let mut row = judge(Rules::hardened()).likeness(&image);
    row.outline.flat = false;
    row.outline.fingerprint = Fingerprint::of_bits((0..256).map(|bit| bit % 2 == 0));
    row.thumbnail = with_positions(1024, 0);
    row.outline.palette = Palette::NONE;
    row.cells.deviation = 100.0;
    row.cells.fine = [[100; 64]; 3];
    row.outline.coarse = [coarse(16, 0); 3];
    let Ok(other) = Image::new(1, 1, vec![0; 3].into()) else { unreachable!("the sides fit the bytes") };
    let mut anchor = row.clone();
    anchor.outline.digest = judge(Rules::hardened()).likeness(&other).digest();
    anchor.outline.fingerprint = row.outline.fingerprint.flipped(128);
    anchor.thumbnail = with_positions(0, 10);
    anchor.cells.fine = [[120; 64]; 3];
    anchor.outline.coarse = [std::array::from_fn(|i| if i % 2 == 0 { 140 } else { 100 }); 3];
    (row, anchor)
}

/// One channel of the neutral row's coarse cells, 80 and 160 in turns, of which the first `near` are moved by `levels`
/// and the others by many.
pub(super) fn coarse(near: usize, levels: i16) -> [u8; 16] {
    let moved = |i: usize| if i < near { levels } else { 90 };
    std::array::from_fn(|i| (if i % 2 == 0 { 80 } else { 160 } + moved(i)) as u8)
}

/// The neutral row's thumbnail, nowhere plain, with all but the first `same` positions changed by `levels`.
pub(super) fn with_positions(same: usize, levels: u8) -> Thumbnail {
    thumbnail_of(32, 32, |i| [checkered(i, 32), if i < same { 100 } else { 100 + levels }, 100])
}

/// Two levels in turns along rows and columns, so that no pixel is as the ones before it.
pub(super) fn checkered(position: usize, width: usize) -> u8 {
    100 + ((position / width + position % width) % 2) as u8
}

/// The ruling on a row against some anchors, without ghosts.
pub(super) fn ruled(
    judge: &Judge,
    row: &Likeness,
    anchors: &[(&Likeness, Standing)],
    suspected: bool,
) -> Judgment {
    judge.rule(row, anchors.iter().copied(), std::iter::empty(), suspected)
}

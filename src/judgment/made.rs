//! Likenesses made to measure, for the unit tests of rulings: each distance is set on its own.

use super::Judge;
use super::image::Image;
use super::likeness::Likeness;
use super::rules::Rules;
use super::ruling::{Candidate, Judgment, Standing};
use super::thumbnail::thumbnail_of;

pub(super) fn judge(rules: Rules) -> Judge {
    Judge::new(rules, [42; 32])
}

/// A row and an anchor that are as near as the guard allows and yet in no radius: 128 bits apart, all 1,024
/// positions by 10 levels in one channel, all fine cells by 30, coarse cells by 60 up and down in turns.
pub(super) fn neutral() -> (Likeness, Likeness) {
    let pixels: Vec<u8> = (0..32 * 32 * 3).map(|i| 100 + (i % 100) as u8).collect();
    let Ok(image) = Image::new(32, 32, pixels.into()) else { unreachable!("the sides fit the bytes") };
    let mut row = judge(Rules::hardened()).likeness(&image);
    row.flat = false;
    row.thumbnail = with_positions(1024, 0);
    row.cells.deviation = 100.0;
    row.cells.fine = [[100; 64]; 3];
    row.cells.coarse = [[100; 16]; 3];
    let Ok(other) = Image::new(1, 1, vec![0; 3].into()) else { unreachable!("the sides fit the bytes") };
    let mut anchor = row.clone();
    anchor.digest = judge(Rules::hardened()).likeness(&other).digest();
    anchor.fingerprint = row.fingerprint.flipped(128);
    anchor.thumbnail = with_positions(0, 10);
    anchor.cells.fine = [[130; 64]; 3];
    anchor.cells.coarse = [std::array::from_fn(|i| if i % 2 == 0 { 160 } else { 40 }); 3];
    (row, anchor)
}

/// The neutral row's thumbnail with all but the first `same` positions changed by `levels`.
pub(super) fn with_positions(same: usize, levels: u8) -> super::thumbnail::Thumbnail {
    thumbnail_of(32, 32, |i| if i < same { [100; 3] } else { [100, 100 + levels, 100] })
}

/// The ruling on a row against some anchors, without ghosts.
pub(super) fn ruled(
    judge: &Judge,
    row: &Likeness,
    anchors: &[(&Likeness, Standing)],
    suspected: bool,
) -> Judgment {
    let candidates = anchors.iter().map(|&(likeness, standing)| Candidate { likeness, standing });
    judge.rule(row, candidates, std::iter::empty(), suspected)
}

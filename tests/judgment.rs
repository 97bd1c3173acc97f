//! Judgment finds what an independent computation found.
//!
//! `tests/fixtures/judgment/make_golden.py` computes likenesses, distances and radii of drawn pictures with numpy and
//! scipy, from the design's words. Here the same pictures are drawn again, from the same integer formulas, and put
//! through the crate's public interface. Every number must be equal, on every machine.

use std::collections::{HashMap, HashSet};
use std::iter::empty;
use std::sync::LazyLock;

use refrain::judgment::{
    Image, Judge, Judgment, Likeness, Profile, Reason, Rules, Ruling, Standing, Thumbnail,
};

#[test]
fn every_likeness_is_the_golden_one() {
    for Case { name, facts, by_paper, by_hardened } in CASES.values() {
        let thumbnail = by_hardened.thumbnail();
        let found = format!("{} {} {}", thumbnail.width(), thumbnail.height(), fnv(&interleaved(thumbnail)));
        assert_eq!(found, facts["thumbnail"], "thumbnail of {name}");

        let flat = u8::from(by_hardened.is_flat());
        let found = format!("{} {} {flat}", by_paper.fingerprint(), by_hardened.fingerprint());
        assert_eq!(found, facts["hash"], "hash of {name}");
        assert!(!by_paper.is_flat());

        let (fine, coarse) = (by_hardened.fine_cells(), by_hardened.coarse_cells());
        let found = format!("{} {}", fnv(fine.as_flattened()), fnv(coarse.as_flattened()));
        let (expected, deviation) = facts["cells"].rsplit_once(' ').expect("cells end with their deviation");
        assert_eq!(found, expected, "cells of {name}");
        let deviation: f32 = deviation.parse().expect("a deviation is a number");
        assert!((by_hardened.cell_deviation() - deviation).abs() < 1e-4, "deviation of {name}");
    }
    assert!(CASES.len() > 300, "the golden file has {} pictures", CASES.len());
}

#[test]
fn every_distance_is_the_golden_one() {
    let (paper, hardened) = judges();
    for pair in pairs() {
        let (anchor, row) = (&CASES[pair.anchor], &CASES[pair.row]);
        let by_paper = paper.distances(&anchor.by_paper, &row.by_paper);
        let by_hardened = hardened.distances(&anchor.by_hardened, &row.by_hardened);
        let found = [
            by_hardened.bits,
            by_hardened.positions,
            by_hardened.of,
            by_hardened.fine_cells_within,
            by_hardened.coarse_cells_within,
            by_paper.bits,
            by_paper.positions,
            by_paper.of,
        ];
        assert_eq!(found, pair.distances, "{} and {}", pair.anchor, pair.row);
        let mean = match pair.total_difference {
            Some(total) => total / row.by_hardened.thumbnail().bytes().len() as f32,
            None => 255.0,
        };
        assert!((by_hardened.mean_difference - mean).abs() < 1e-3, "{} and {}", pair.anchor, pair.row);
        let correlation = (by_hardened.correlation - pair.correlation).abs();
        assert!(correlation < 1e-5, "{} and {}: {correlation}", pair.anchor, pair.row);
        // Steps of a palette are rounded; where one lies on an edge, single precision may round it to the other side.
        let steps = (by_hardened.palette - pair.palette).abs() * 48.0 * 24.0;
        assert!(steps < 2.5, "{} and {}: {steps} steps", pair.anchor, pair.row);
    }
}

#[test]
fn every_ruling_follows_the_golden_radius_and_guard() {
    let (paper, hardened) = judges();
    let mut radii = HashSet::new();
    for pair in pairs() {
        let about = format!("{} and {}", pair.anchor, pair.row);
        let (anchor, row) = (&CASES[pair.anchor], &CASES[pair.row]);
        let rule = |suspected| one_anchor(&hardened, &row.by_hardened, &anchor.by_hardened, suspected);

        let Judgment { ruling, evidence } = rule(false);
        let replayed = pair.radius == "exact" || (pair.radius == "reuse" && pair.guard);
        assert_eq!(ruling, if replayed { Ruling::Replay(0) } else { Ruling::Forward }, "{about}");
        assert_eq!(evidence.suspect, !replayed && pair.radius != "none", "{about}");
        assert_eq!(evidence.reason == Reason::Exact, pair.radius == "exact", "{about}");
        assert_eq!(evidence.reason == Reason::Unguarded, pair.radius == "reuse" && !pair.guard, "{about}");
        assert_eq!(evidence.reason == Reason::New, pair.radius == "none", "{about}");

        let expected = match pair.radius {
            "none" => Ruling::Forward,
            "reuse" | "suspect" if !pair.guard => Ruling::Refuse,
            _ => Ruling::Replay(0),
        };
        assert_eq!(rule(true).ruling, expected, "{about}, suspected");

        let by_paper = one_anchor(&paper, &row.by_paper, &anchor.by_paper, true);
        let expected = if pair.similar { Ruling::Replay(0) } else { Ruling::Forward };
        assert_eq!((by_paper.ruling, by_paper.evidence.suspect), (expected, false), "{about}, by the paper");
        radii.insert((pair.radius, pair.guard));
    }
    // The drawings must reach every corner of the rule, or this test promises less than it says.
    let corners = [("exact", true), ("reuse", true), ("reuse", false), ("suspect", true), ("suspect", false)];
    assert!(corners.iter().all(|corner| radii.contains(corner)), "{radii:?}");
    assert!(radii.contains(&("none", false)), "{radii:?}");
}

#[test]
fn a_likeness_does_not_depend_on_who_made_the_judge() {
    let (_, first) = judges();
    let second = Judge::new(Rules::hardened(), [2; 32]);
    let drawn = Drawn { width: 50, height: 60, recipe: "waves 2 3 40" };
    let (a, b) = (first.likeness(&drawn.image()), second.likeness(&drawn.image()));
    assert_ne!(a.digest(), b.digest(), "another key is another digest");
    assert_eq!((a.fingerprint(), a.thumbnail()), (b.fingerprint(), b.thumbnail()));
    assert_eq!(first.rules().profile, Profile::Hardened);
}

/// No noise of at most 16/255 a pixel takes a picture of some contrast out of the reuse radius or the guard: the
/// promise that the cells are there for.
#[test]
fn dense_small_noise_stays_within_reuse() {
    let (_, hardened) = judges();
    for seed in 0..40 {
        let recipe = format!("waves {} {} {}", 1 + seed % 3, 1 + seed % 4, 7 * seed);
        let likeness = |recipe: &str| hardened.likeness(&Drawn { width: 32, height: 32, recipe }.image());
        let anchor = likeness(&recipe);
        for amplitude in [1, 4, 8, 16] {
            let row = likeness(&format!("{recipe} + noise {seed} {amplitude}"));
            let judgment = one_anchor(&hardened, &row, &anchor, false);
            assert_eq!(judgment.ruling, Ruling::Replay(0), "{recipe}, noise of {amplitude}: {judgment:?}");
        }
    }
}

fn judges() -> (Judge, Judge) {
    (Judge::new(Rules::paper(), [1; 32]), Judge::new(Rules::hardened(), [1; 32]))
}

fn one_anchor(judge: &Judge, row: &Likeness, anchor: &Likeness, suspected: bool) -> Judgment {
    judge.rule(row, [(anchor, Standing::SameView)].into_iter(), empty(), suspected)
}

const GOLDEN: &str = include_str!("fixtures/judgment/golden.txt");

/// A picture of the golden file, the facts that follow it there, and what the judges make of it.
struct Case {
    name: &'static str,
    facts: HashMap<&'static str, &'static str>,
    by_paper: Likeness,
    by_hardened: Likeness,
}

static CASES: LazyLock<HashMap<&'static str, Case>> = LazyLock::new(|| {
    let (paper, hardened) = judges();
    let mut cases: Vec<Case> = Vec::new();
    for line in GOLDEN.lines() {
        let (kind, rest) = line.split_once(' ').expect("every line has a kind and a rest");
        match kind {
            "image" => {
                let mut parts = rest.splitn(4, ' ');
                let mut part = || parts.next().expect("an image has a name, two sides and a recipe");
                let (name, width, height) = (part(), number(part()) as usize, number(part()) as usize);
                let image = Drawn { width, height, recipe: part() }.image();
                let (by_paper, by_hardened) = (paper.likeness(&image), hardened.likeness(&image));
                cases.push(Case { name, facts: HashMap::new(), by_paper, by_hardened });
            }
            "thumbnail" | "hash" | "cells" => {
                cases.last_mut().expect("facts follow their image").facts.insert(kind, rest);
            }
            _ => {}
        }
    }
    cases.into_iter().map(|case| (case.name, case)).collect()
});

/// A golden pair: every distance, the radius by the hardened rule, the guard, and what the paper calls it.
struct Pair {
    anchor: &'static str,
    row: &'static str,
    /// Bits, positions, of, fine cells, coarse cells; the paper's bits, positions, of.
    distances: [u32; 8],
    /// The correlation of the fine cells without their planes.
    correlation: f64,
    /// The mean distance of the palettes' tones, in deviations.
    palette: f32,
    total_difference: Option<f32>,
    radius: &'static str,
    guard: bool,
    similar: bool,
}

fn pairs() -> impl Iterator<Item = Pair> {
    let lines = GOLDEN.lines().filter_map(|line| line.strip_prefix("pair "));
    assert!(lines.clone().count() > 200, "the golden file has pairs");
    lines.map(|line| {
        let parts: Vec<&str> = line.split(' ').collect();
        let [
            anchor,
            row,
            bits,
            positions,
            of,
            fine,
            coarse,
            correlation,
            palette,
            total,
            radius,
            guard,
            by_paper @ ..,
        ] = &parts[..]
        else {
            unreachable!("a pair lacks columns: {line}")
        };
        let [paper_bits, paper_positions, paper_of, similar] = by_paper else {
            unreachable!("a pair lacks the paper's columns: {line}")
        };
        Pair {
            anchor,
            row,
            distances: [bits, positions, of, fine, coarse, paper_bits, paper_positions, paper_of]
                .map(|text| number(text) as u32),
            correlation: correlation.parse().expect("a correlation is a number"),
            palette: palette.parse().expect("a palette distance is a number"),
            total_difference: total.parse().ok(),
            radius,
            guard: *guard == "1",
            similar: *similar == "1",
        }
    })
}

/// A picture by its recipe: a base and any number of edits, each after a plus. Integer arithmetic throughout, the
/// same as in `make_golden.py`.
struct Drawn<'r> {
    width: usize,
    height: usize,
    recipe: &'r str,
}

impl Drawn<'_> {
    fn image(&self) -> Image<'static> {
        let (width, height) = (self.width as i64, self.height as i64);
        let mut levels: Vec<i64> = Vec::new();
        for step in self.recipe.split(" + ") {
            let (name, numbers) = step.split_once(' ').unwrap_or((step, ""));
            let n: Vec<i64> = numbers.split_whitespace().map(number).collect();
            let each = |level: &dyn Fn(i64, i64, i64) -> i64| -> Vec<i64> {
                let mut levels = Vec::with_capacity(self.width * self.height * 3);
                for y in 0..height {
                    for x in 0..width {
                        levels.extend((0..3).map(|c| level(x, y, c)));
                    }
                }
                levels
            };
            let before = std::mem::take(&mut levels);
            let at = |x: i64, y: i64, c: i64| before[((y * width + x) * 3 + c) as usize];
            levels = match name {
                "drawn" => lcg(n[0], self.width * self.height * 3),
                "pattern" => each(&|x, y, c| ((x * n[0] + y * n[1] + c * n[2]) ^ n[3]) & 255),
                "ramp" => each(&|x, y, c| match c {
                    0 => x * 255 / (width - 1).max(1),
                    1 => y * 255 / (height - 1).max(1),
                    _ => (x + y) * 255 / (width + height - 2).max(1),
                }),
                "plain" => each(&|_, _, c| n[c as usize]),
                "waves" => each(&|x, y, c| {
                    let (across, down) = (x * n[0] * 512 / width, y * n[1] * 512 / height);
                    (triangle(across + c * n[2]) + triangle(down + c * 2 * n[2])) >> 1
                }),
                "noise" => {
                    let drawn = lcg(n[0], before.len());
                    let noisy = before.iter().zip(drawn).map(|(level, d)| level + d % (2 * n[1] + 1) - n[1]);
                    noisy.map(|level| level.clamp(0, 255)).collect()
                }
                "patch" => each(&|x, y, c| {
                    let inside = (n[0]..n[0] + n[2]).contains(&x) && (n[1]..n[1] + n[3]).contains(&y);
                    if inside { n[4 + c as usize] } else { at(x, y, c) }
                }),
                "cast" => each(&|x, y, c| (at(x, y, c) + n[c as usize]).clamp(0, 255)),
                "contrast" => each(&|x, y, c| ((at(x, y, c) - 128) * n[0]).div_euclid(100) + 128),
                "mirror" => each(&|x, y, c| at(width - 1 - x, y, c)),
                _ => unreachable!("no such step: {step}"),
            };
        }
        let rgb: Vec<u8> =
            levels.iter().map(|&level| u8::try_from(level).expect("levels are bytes")).collect();
        Image::new(self.width as u32, self.height as u32, rgb.into()).expect("recipes draw whole pictures")
    }
}

fn lcg(seed: i64, count: usize) -> Vec<i64> {
    let mut state = seed as u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        i64::from(state >> 24)
    };
    (0..count).map(step).collect()
}

fn triangle(t: i64) -> i64 {
    let t = t.rem_euclid(512);
    if t < 256 { t } else { 511 - t }
}

fn number(text: &str) -> i64 {
    text.parse().expect("recipes and golden columns are whole numbers")
}

fn interleaved(thumbnail: &Thumbnail) -> Vec<u8> {
    let [red, green, blue] = thumbnail.planes();
    (0..red.len()).flat_map(|i| [red[i], green[i], blue[i]]).collect()
}

fn fnv(bytes: &[u8]) -> String {
    let mix = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix))
}

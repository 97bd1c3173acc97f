//! An attack's part of the page: who succeeded, its queries over time, a card for each photograph, and the numbers.

use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::chart::{Axis, Tick, area, grid, line};
use super::grouped;
use crate::demo::DemoError;
use crate::demo::duel::{Duel, Fate, Step, Trial};
use crate::demo::model::LABELS;
use crate::demo::photos::{Photo, Picture};
use crate::demo::report::words;

/// One attack on all photographs.
pub(super) struct Attacks<'a> {
    pub(super) name: &'static str,
    pub(super) anchor: String,
    pub(super) tells: String,
    pub(super) of: usize,
    /// Whether any question was refused: seldom, so that it is only then explained.
    pub(super) refused: bool,
    pub(super) success: [Success; 3],
    pub(super) course: Course,
    pub(super) cards: Vec<Card<'a>>,
    pub(super) words: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) sums: Row,
}

/// How many succeeded, counted in one way.
pub(super) struct Success {
    pub(super) what: &'static str,
    pub(super) many: usize,
}

impl<'a> Attacks<'a> {
    pub(super) fn of(duel: &Duel, photos: &'a [Photo]) -> Result<Self, DemoError> {
        let cards = photos.iter().zip(&duel.trials).map(|(photo, trial)| Card::of(photo, trial));
        Ok(Self {
            name: duel.attack.name(),
            anchor: duel.attack.name().to_lowercase(),
            tells: duel.attack.tells(),
            of: duel.trials.len(),
            refused: duel.trials.iter().any(|trial| trial.refrain.refused > 0),
            success: [
                ("on the bare model", duel.fooled_bare()),
                ("through Refrain, as the attacker saw it", duel.fooled_through()),
                ("through Refrain, its best on the bare model", duel.transferred()),
            ]
            .map(|(what, many)| Success { what, many }),
            course: Course::of(duel),
            cards: cards.collect::<Result<_, _>>()?,
            words: words::in_words(duel),
            rows: duel.trials.iter().map(Row::of).collect(),
            sums: Row::sums(duel),
        })
    }
}

/// The questions of all attackers together, as they came.
pub(super) struct Course {
    /// The same in a sentence.
    pub(super) says: String,
    pub(super) x: Vec<Tick>,
    pub(super) y: Vec<Tick>,
    pub(super) grid: String,
    pub(super) bare: String,
    pub(super) forwarded: String,
    /// Forwarded and replayed.
    pub(super) answered: String,
    /// Refused as well.
    pub(super) asked: String,
    pub(super) replayed_area: String,
    pub(super) refused_area: String,
}

impl Course {
    fn of(duel: &Duel) -> Self {
        let bare = moments(duel, |trial| &trial.bare_course, |_| true);
        let through = |fates: &'static [Fate]| {
            moments(duel, |trial| &trial.refrain_course, move |fate| fates.contains(&fate))
        };
        let forwarded = through(&[Fate::Forward]);
        let answered = through(&[Fate::Forward, Fate::Replay]);
        let asked = through(&[Fate::Forward, Fate::Replay, Fate::Refuse]);
        let last = |moments: &[Duration]| moments.last().copied().unwrap_or_default();
        let (bare_end, end) = (last(&bare), last(&asked));
        let x = Axis::new(0.0, bare_end.max(end).as_secs_f64());
        let y = Axis::up_to(bare.len().max(asked.len()) as f64);
        let counts = |moments: &[Duration], until: Duration| counts(moments, until);
        let refused = match asked.len() - answered.len() {
            0 => String::new(),
            many => format!(", {} refused", grouped(many as u64)),
        };
        let says = format!(
            "Against the bare model {} queries in {:.1} s, all of which the model answered. Through Refrain {} queries in \
             {:.1} s: {} forwarded to the model, {} replayed{refused}. An attack that succeeds stops.",
            grouped(bare.len() as u64),
            bare_end.as_secs_f64(),
            grouped(asked.len() as u64),
            end.as_secs_f64(),
            grouped(forwarded.len() as u64),
            grouped((answered.len() - forwarded.len()) as u64),
        );
        let bare = counts(&bare, bare_end);
        let [forwarded, answered, asked] = [forwarded, answered, asked].map(|moments| counts(&moments, end));
        let digits = x.digits();
        Self {
            says,
            x: x.ticks(|value| format!("{value:.digits$} s")),
            y: y.ticks(|value| grouped(value as u64)),
            grid: grid(y),
            bare: line(&bare, x, y),
            replayed_area: area(&answered, &forwarded, x, y),
            refused_area: area(&asked, &answered, x, y),
            forwarded: line(&forwarded, x, y),
            answered: line(&answered, x, y),
            asked: line(&asked, x, y),
        }
    }
}

/// When the replies came that are `wanted`, of all attackers, in order.
fn moments(duel: &Duel, course: fn(&Trial) -> &Vec<Step>, wanted: impl Fn(Fate) -> bool) -> Vec<Duration> {
    let steps = duel.trials.iter().flat_map(course).filter(|step| wanted(step.fate));
    let mut moments: Vec<_> = steps.map(|step| step.at).collect();
    moments.sort_unstable();
    moments
}

/// How many of `moments` were past, at evenly spaced times until `until`: as fine as the plot is drawn.
fn counts(moments: &[Duration], until: Duration) -> Vec<(f64, f64)> {
    const POINTS: u32 = 160;
    (0..=POINTS)
        .map(|i| {
            let now = until * i / POINTS;
            (now.as_secs_f64(), moments.partition_point(|moment| *moment <= now) as f64)
        })
        .collect()
}

/// What stands for one photograph: three pictures, their labels, the questions in their order.
pub(super) struct Card<'a> {
    pub(super) name: &'a str,
    pub(super) shows: &'a str,
    pub(super) clean: String,
    pub(super) clean_label: &'static str,
    pub(super) clean_share: String,
    pub(super) bare: String,
    pub(super) bare_label: Label,
    pub(super) bare_after: String,
    pub(super) refrain: String,
    pub(super) refrain_label: Label,
    pub(super) transferred: Label,
    pub(super) longest: u64,
    pub(super) bare_asked: u64,
    pub(super) refrain_asked: u64,
    pub(super) forwards: String,
    pub(super) refusals: String,
    pub(super) counts: String,
}

impl<'a> Card<'a> {
    fn of(photo: &'a Photo, trial: &Trial) -> Result<Self, DemoError> {
        let Trial { bare, refrain, .. } = trial;
        let after = match bare.fooled {
            Some(fooled) => format!("after {}", counted(fooled.after, "query", "queries")),
            None => format!("in {}", counted(bare.asked, "query", "queries")),
        };
        let refused = match refrain.refused {
            0 => String::new(),
            many => format!(", {} refused", grouped(many)),
        };
        Ok(Self {
            name: photo.name,
            shows: photo.shows,
            clean: data(&photo.picture)?,
            clean_label: LABELS[bare.label],
            clean_share: format!("{:.1} % sure", bare.clean[bare.label] * 100.0),
            bare: data(&bare.best)?,
            bare_label: Label::of(bare.ended_with(), bare.label),
            bare_after: after,
            refrain: data(&refrain.best)?,
            refrain_label: Label::of(refrain.ended_with(), refrain.label),
            transferred: Label::of(trial.transferred, bare.label),
            longest: bare.asked.max(refrain.asked),
            bare_asked: bare.asked,
            refrain_asked: refrain.asked,
            forwards: marks(&trial.refrain_course, Fate::Forward, |path, at| write!(path, "M{at}.5 10v12")),
            refusals: marks(&trial.refrain_course, Fate::Refuse, |path, at| write!(path, "M{at} 12h1v8h-1z")),
            counts: format!(
                "Bare: {}. Through Refrain: {}, {} forwarded, {} replayed{refused}.",
                counted(bare.asked, "query", "queries"),
                grouped(refrain.asked),
                grouped(trial.forwarded),
                grouped(trial.short_circuited()),
            ),
        })
    }
}

/// A path with a mark for each question of one fate.
fn marks(course: &[Step], fate: Fate, mark: impl Fn(&mut String, usize) -> std::fmt::Result) -> String {
    let places = course.iter().enumerate().filter(|(_, step)| step.fate == fate);
    places.fold(String::new(), |mut path, (at, _)| {
        let _ = mark(&mut path, at);
        path
    })
}

fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A picture as part of the page.
fn data(picture: &Picture) -> Result<String, DemoError> {
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(picture.png()?)))
}

/// A label as it is shown: an arrow and a colour where it is another than the photograph's.
pub(super) struct Label {
    pub(super) class: &'static str,
    pub(super) text: String,
}

impl Label {
    fn of(label: usize, clean: usize) -> Self {
        if label == clean {
            Self { class: "label", text: LABELS[label].to_owned() }
        } else {
            Self { class: "label other", text: format!("→ {}", LABELS[label]) }
        }
    }
}

/// A row of the table.
pub(super) struct Row {
    pub(super) photo: &'static str,
    pub(super) cells: Vec<Cell>,
}

/// A cell of it.
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) is_number: bool,
    pub(super) is_other: bool,
}

impl Row {
    fn of(trial: &Trial) -> Self {
        let Trial { photo, bare, refrain, .. } = trial;
        let label = |label| {
            let Label { class, text } = Label::of(label, bare.label);
            Cell { text, is_number: false, is_other: class != "label" }
        };
        let clean = format!("{} {:.3}", LABELS[bare.label], bare.clean[bare.label]);
        let after = bare.fooled.map_or("–".to_owned(), |fooled| grouped(fooled.after));
        let mut cells = vec![Cell::text(clean), Cell::number(after), label(bare.ended_with())];
        cells.extend(counts_of(trial).map(|count| Cell::number(grouped(count))));
        cells.extend([label(refrain.ended_with()), label(trial.transferred)]);
        Self { photo, cells }
    }

    fn sums(duel: &Duel) -> Self {
        let sums = duel
            .trials
            .iter()
            .map(counts_of)
            .fold([0; 4], |sums, counts| std::array::from_fn(|i| sums[i] + counts[i]));
        let fooled = |many: usize| Cell::text(format!("→ {many}"));
        let mut cells =
            vec![Cell::text(String::new()), Cell::text(String::new()), fooled(duel.fooled_bare())];
        cells.extend(sums.map(|sum| Cell::number(grouped(sum))));
        cells.extend([fooled(duel.fooled_through()), fooled(duel.transferred())]);
        Self { photo: "in all", cells }
    }
}

impl Cell {
    fn text(text: String) -> Self {
        Self { text, is_number: false, is_other: false }
    }

    fn number(text: String) -> Self {
        Self { text, is_number: true, is_other: false }
    }
}

/// Asked, forwarded, replayed, refused.
fn counts_of(trial: &Trial) -> [u64; 4] {
    [trial.refrain.asked, trial.forwarded, trial.short_circuited(), trial.refrain.refused]
}

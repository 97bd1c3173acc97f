//! The run as one page: what the terminal prints, with the pictures and the course of every search. It needs nothing but itself.
//!
//! ```text
//! page.html   what stands where; every value that is put in is escaped
//! page.css    how it looks, light and dark, narrow and wide
//! attacks.rs  an attack's part: its course, a card for each photograph, the numbers
//! latency.rs  the times of forwarded and held replies
//! chart.rs    axes and paths
//! file.rs     the file it goes into
//! ```

mod attacks;
mod latency;
mod chart;
mod file;

use std::time::SystemTime;

use askama::Template;
use humantime_serde::re::humantime::format_rfc3339_seconds;

pub use file::{CannotWrite, Destination};

use super::duel::Duel;
use super::photos::Photo;
use super::report::PARAMETERS;
use super::{DemoError, Story};
use attacks::Attacks;
use latency::Times;

/// The page's text; the story ended at `ended`.
pub fn page(story: &Story, ended: SystemTime) -> Result<String, DemoError> {
    let in_all = |count: fn(&Duel) -> usize| story.duels.iter().map(count).sum();
    let trials = || story.duels.iter().flat_map(|duel| &duel.trials);
    let parts: Result<_, _> = story.duels.iter().map(|duel| Attacks::of(duel, &story.photos)).collect();
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        unoptimised: cfg!(debug_assertions),
        seed: story.seed,
        ended: format_rfc3339_seconds(ended).to_string(),
        machine: machine(),
        parameters: PARAMETERS,
        photos: story.photos.len(),
        attacks: in_all(|duel| duel.trials.len()),
        fooled_bare: in_all(Duel::fooled_bare),
        fooled_through: in_all(Duel::fooled_through),
        asked: grouped(trials().map(|trial| trial.refrain.asked).sum()),
        forwarded: grouped(trials().map(|trial| trial.forwarded).sum()),
        shadows: story.duels.iter().map(|duel| duel.shadows).sum(),
        duels: parts?,
        latency: Times::of(&story.latency),
        credits: &story.photos,
    };
    page.render().map_err(|error| DemoError::Page(error.to_string()))
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    version: &'static str,
    unoptimised: bool,
    seed: u64,
    ended: String,
    machine: String,
    parameters: &'static str,
    photos: usize,
    attacks: usize,
    fooled_bare: usize,
    fooled_through: usize,
    asked: String,
    forwarded: String,
    shadows: u64,
    duels: Vec<Attacks<'a>>,
    latency: Times,
    credits: &'a [Photo],
}

/// What the times depend on, and nothing by which the machine could be known.
fn machine() -> String {
    use std::env::consts::{ARCH, OS};
    match std::thread::available_parallelism() {
        Ok(many) if many.get() == 1 => format!("one processor, {ARCH}, {OS}"),
        Ok(many) => format!("{many} processors, {ARCH}, {OS}"),
        Err(_) => format!("{ARCH}, {OS}"),
    }
}

/// A number with a comma between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let numbers = [0, 999, 1000, 18_612, 1_000_000];
        assert_eq!(numbers.map(grouped), ["0", "999", "1,000", "18,612", "1,000,000"]);
    }
}

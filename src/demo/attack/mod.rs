//! The attackers: two published searches for a changed picture that the model labels otherwise, written for this demo.
//!
//! Both know nothing but the scores of what they ask, and their parameters were fixed before any run against Refrain. They are
//! the same program with the same random numbers whether they talk to the model or to Refrain. The photograph itself is asked
//! first: an attacker needs to know what the model says of it. A refused question costs as much as an answered one and
//! its candidate is taken to be no better than what is already held; the search goes on until its questions are used up.

mod one_pixel;
mod square;

use std::future::Future;

use super::DemoError;
use super::client::{Client, Reply};
use super::model::{Scores, top};
use super::photos::Picture;
use super::random::Random;

/// A search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Su, Vargas and Sakurai, "One Pixel Attack for Fooling Deep Neural Networks", 2019, with five pixels.
    OnePixel,
    /// Andriushchenko, Croce, Flammarion and Hein, "Square Attack", 2020, for the largest change of a channel.
    Square,
}

impl Attack {
    /// Both, in the order in which they are told.
    pub const ALL: [Self; 2] = [Self::OnePixel, Self::Square];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnePixel => "one-pixel",
            Self::Square => "Square",
        }
    }

    /// What it does and with which numbers, a sentence or two.
    pub fn tells(self) -> String {
        match self {
            Self::OnePixel => one_pixel::tells(),
            Self::Square => square::tells(),
        }
    }

    /// The most questions it asks after the photograph itself.
    pub fn budget(self) -> u64 {
        match self {
            Self::OnePixel => one_pixel::BUDGET,
            Self::Square => square::BUDGET,
        }
    }

    /// Searches for a change of `photo` that gets another label, with at most `budget` questions after the first.
    pub async fn run<O: Oracle>(
        self,
        oracle: &mut O,
        photo: &Picture,
        budget: u64,
        random: Random,
    ) -> Result<Outcome, DemoError> {
        let Reply::Scores(clean) = oracle.ask(photo).await? else {
            return Err(DemoError::Refused);
        };
        let label = top(&clean);
        let mut search = Search { oracle, label, left: budget, asked: 1, refused: 0, fooled: None };
        let best = match self {
            Self::OnePixel => one_pixel::search(&mut search, photo, random).await?,
            Self::Square => square::search(&mut search, photo, clean, random).await?,
        };
        let Search { asked, refused, fooled, .. } = search;
        Ok(Outcome { label, clean, asked, refused, fooled, best })
    }
}

/// Whoever answers an attacker's questions.
pub trait Oracle: Send {
    /// Asks about one picture.
    fn ask(&mut self, picture: &Picture) -> impl Future<Output = Result<Reply, DemoError>> + Send;
}

impl Oracle for Client {
    async fn ask(&mut self, picture: &Picture) -> Result<Reply, DemoError> {
        Client::ask(self, picture).await
    }
}

/// What came of a search, as the attacker saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The class of the unchanged photograph.
    pub label: usize,
    /// Its scores.
    pub clean: Scores,
    /// Questions asked, the photograph and the refused ones among them.
    pub asked: u64,
    /// Questions refused.
    pub refused: u64,
    /// The first other class that was seen, and after how many questions.
    pub fooled: Option<Fooled>,
    /// The picture that the attacker holds for its best in the end.
    pub best: Picture,
}

impl Outcome {
    /// The class that the attacker saw for the picture it ended with.
    pub fn ended_with(&self) -> usize {
        self.fooled.map_or(self.label, |fooled| fooled.label)
    }
}

/// Another class than the photograph's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fooled {
    /// Questions asked by then.
    pub after: u64,
    /// The class.
    pub label: usize,
}

/// A search under way: whom it asks and what it may still ask.
struct Search<'a, O> {
    oracle: &'a mut O,
    label: usize,
    left: u64,
    asked: u64,
    refused: u64,
    fooled: Option<Fooled>,
}

impl<O: Oracle> Search<'_, O> {
    /// Whether there is reason and right to ask on.
    fn goes_on(&self) -> bool {
        self.fooled.is_none() && self.left > 0
    }

    /// The scores of a candidate; none where the question was refused.
    async fn ask(&mut self, candidate: &Picture) -> Result<Option<Scores>, DemoError> {
        self.left = self.left.saturating_sub(1);
        self.asked += 1;
        match self.oracle.ask(candidate).await? {
            Reply::Refused => {
                self.refused += 1;
                Ok(None)
            }
            Reply::Scores(scores) => {
                let label = top(&scores);
                if label != self.label && self.fooled.is_none() {
                    self.fooled = Some(Fooled { after: self.asked, label });
                }
                Ok(Some(scores))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Class 3 becomes class 5 as the mean of a row of pixels grows; every `refuses`-th question is refused.
    pub(super) struct Toy {
        pub(super) refuses: u64,
        pub(super) asked: Vec<Picture>,
        /// The red level of pixels above which the label changes.
        pub(super) limit: f32,
    }

    impl Oracle for Toy {
        async fn ask(&mut self, picture: &Picture) -> Result<Reply, DemoError> {
            self.asked.push(picture.clone());
            if self.refuses > 0 && (self.asked.len() as u64).is_multiple_of(self.refuses) {
                return Ok(Reply::Refused);
            }
            let reds: f32 = (0..16).map(|x| f32::from(picture.at(2 * x, 9)[0])).sum();
            let mut scores = [0.0; 10];
            scores[5] = (0.5 * reds / 16.0 / self.limit).min(1.0);
            scores[3] = 1.0 - scores[5];
            Ok(Reply::Scores(scores))
        }
    }

    fn toy(limit: f32, refuses: u64) -> Toy {
        Toy { refuses, asked: Vec::new(), limit }
    }

    #[tokio::test]
    async fn each_attack_fools_a_toy_and_stops_there() {
        for attack in Attack::ALL {
            let mut toy = toy(103.0, 0);
            let photo = Picture::grey(100);
            let outcome = attack.run(&mut toy, &photo, attack.budget(), Random::of(1, "a")).await.unwrap();
            let fooled = outcome.fooled.unwrap_or_else(|| panic!("{attack:?} found nothing"));
            assert_eq!((outcome.label, fooled.label, outcome.ended_with()), (3, 5, 5));
            assert_eq!((outcome.asked, fooled.after), (toy.asked.len() as u64, outcome.asked));
            assert_eq!(outcome.best, toy.asked[toy.asked.len() - 1]);
            assert_eq!(toy.asked[0], photo);
        }
    }

    #[tokio::test]
    async fn a_search_ends_with_its_budget_and_counts_what_was_refused() {
        for attack in Attack::ALL {
            for (budget, refuses) in [(attack.budget(), 0), (137, 0), (137, 3), (1, 0), (0, 0)] {
                let mut toy = toy(1e9, refuses);
                let outcome =
                    attack.run(&mut toy, &Picture::grey(9), budget, Random::of(1, "b")).await.unwrap();
                assert_eq!((outcome.asked, outcome.fooled), (budget + 1, None), "{attack:?} {budget}");
                assert_eq!(outcome.asked, toy.asked.len() as u64);
                assert_eq!(outcome.refused, outcome.asked.checked_div(refuses).unwrap_or(0));
            }
        }
    }

    #[tokio::test]
    async fn candidates_stay_within_what_each_attack_may_change() {
        for attack in Attack::ALL {
            let mut toy = toy(1e9, 5);
            let photo = Picture::grey(251);
            attack.run(&mut toy, &photo, 400, Random::of(2, "c")).await.unwrap();
            for candidate in &toy.asked {
                let pixels = (0..32).flat_map(|y| (0..32).map(move |x| (x, y)));
                let changed: Vec<_> =
                    pixels.filter(|(x, y)| candidate.at(*x, *y) != photo.at(*x, *y)).collect();
                match attack {
                    Attack::OnePixel => assert!(changed.len() <= 5),
                    Attack::Square => {
                        for (x, y) in changed {
                            assert!(candidate.at(x, y).iter().all(|level| *level >= 243));
                        }
                    }
                }
            }
        }
    }
}

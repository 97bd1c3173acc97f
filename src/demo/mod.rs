//! `refrain demo`: everything embedded, on loopback. A small real classifier behind a model server, Refrain in front of it, and
//! two real attacks that meet first the one and then the other.
//!
//! ```text
//! photos.rs    twelve photographs, named and credited before anything runs
//! model.rs     the classifier
//! question.rs  what the model server takes for a question
//! server.rs    the model server, and its count of who asked
//! world.rs     both servers up
//! client.rs    the attacker's connection
//! attack/      the attackers
//! duel.rs      one attack on all photographs, bare and through Refrain
//! latency.rs   forwarded and held replies, timed
//! report/      what is printed
//! page/        the same as a page to keep, with the pictures
//! random.rs    the same numbers for the same seed
//! ```
//!
//! Nothing here is used by the proxy, and of the proxy only its public face is used here.

pub mod photos;
pub mod model;
mod question;
pub mod server;
mod world;
pub mod client;
pub mod attack;
mod duel;
mod latency;
mod report;
pub mod page;
mod random;

use std::io::Write;
use std::net::SocketAddr;

pub use duel::{Duel, Fate, Step, Trial};
pub use latency::{Histogram, Latency, quantile};
pub use random::Random;

use crate::config::Mistakes;
use crate::proxy::StartError;
use attack::Attack;
use model::Classifier;
use photos::Photo;
use world::World;

/// The seed of every random number, unless another is asked for.
pub const SEED: u64 = 20;

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The seed of the attacks and of the compute times.
    pub seed: u64,
    /// How many of the photographs, from the first; 1 to 12.
    pub photos: usize,
    /// The most questions of each attack, where its own budget is not smaller.
    pub budget: u64,
    /// Pairs of timed questions; at least 1.
    pub pairs: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { seed: SEED, photos: usize::MAX, budget: u64::MAX, pairs: 400 }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Story {
    /// The seed of its random numbers.
    pub seed: u64,
    /// The photographs, in the order in which every attack took them.
    pub photos: Vec<Photo>,
    /// The attacks, in the order of [`Attack::ALL`].
    pub duels: Vec<Duel>,
    /// The time of forwarded and held replies.
    pub latency: Latency,
}

/// Told what is being done, now and then, for whoever waits.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Why the demo could not be told to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// An embedded photograph.
    #[error("the photograph {name}: {why}")]
    Photo {
        /// Which.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The embedded classifier.
    #[error("the classifier: {0}")]
    Model(String),
    /// A thread that the system does not give.
    #[error("cannot start a thread: {0}")]
    Thread(String),
    /// A port that cannot be had.
    #[error("cannot listen on loopback: {0}")]
    Listen(String),
    /// The sidecar's settings.
    #[error("the sidecar's settings: {0}")]
    Settings(#[from] Mistakes),
    /// The sidecar.
    #[error("the sidecar cannot start: {0}")]
    Start(#[from] StartError),
    /// A connection that was not made.
    #[error("cannot connect to {server}: {why}")]
    Connect {
        /// To whom.
        server: SocketAddr,
        /// Why.
        why: String,
    },
    /// A call that failed otherwise than by being refused.
    #[error("a call to {server} failed: {why}")]
    Call {
        /// To whom.
        server: SocketAddr,
        /// Why.
        why: String,
    },
    /// A question that no suspicion can have met was refused.
    #[error("a question was refused that gave no reason for it")]
    Refused,
    /// Counts that do not agree.
    #[error("the counts do not agree: {0}")]
    Accounts(String),
    /// A part of the demo that panicked.
    #[error("a part of the demo ended early: {0}")]
    Task(String),
    /// The page of the run.
    #[error("the page: {0}")]
    Page(String),
    /// Nowhere to print.
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

/// Runs `plan` and prints the story to `out` as it unfolds.
pub async fn run(
    plan: Plan,
    out: &mut (impl Write + Send),
    progress: Progress<'_>,
) -> Result<Story, DemoError> {
    let mut photos = photos::all()?;
    photos.truncate(plan.photos.max(1));
    let classifier = Classifier::embedded()?;
    let world = World::open(classifier).await?;
    write!(out, "{}", report::opening(world.bare, world.refrain, &photos, plan.seed))?;

    let mut duels = Vec::new();
    for attack in Attack::ALL {
        write!(out, "{}", report::before(attack, photos.len()))?;
        out.flush()?;
        world.make_times_known(&photos[0], attack.name()).await?;
        let duel = duel::fight(&world, &photos, attack, plan.budget, plan.seed, progress).await?;
        write!(out, "{}", report::table(&duel))?;
        out.flush()?;
        duels.push(duel);
    }
    write!(out, "{}", report::success(&duels))?;
    out.flush()?;
    let latency = latency::measure(&world, &photos, plan.pairs.max(1), plan.seed, progress).await?;
    write!(out, "{}{}", report::latency(&latency), report::next())?;
    out.flush()?;
    world.close().await?;
    Ok(Story { seed: plan.seed, photos, duels, latency })
}

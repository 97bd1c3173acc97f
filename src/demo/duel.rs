//! One attack on all photographs, against the bare model and through Refrain, and the counts of both sides put together.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::attack::{Attack, Oracle, Outcome};
use super::client::{Client, Reply};
use super::model::top;
use super::photos::{Photo, Picture};
use super::random::Random;
use super::server::ModelServer;
use super::world::World;
use super::{DemoError, Progress};

/// One attack, all photographs.
#[derive(Clone, Debug, PartialEq)]
pub struct Duel {
    /// The attack.
    pub attack: Attack,
    /// One for each photograph, in their order.
    pub trials: Vec<Trial>,
    /// Near-copies for whose time the model was asked all the same, and its answer dropped.
    pub shadows: u64,
}

/// One attack on one photograph, twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The photograph's name.
    pub photo: &'static str,
    /// Against the bare model.
    pub bare: Outcome,
    /// Through Refrain.
    pub refrain: Outcome,
    /// Of the questions through Refrain, those that the model server says it was asked.
    pub forwarded: u64,
    /// The bare model's class for the best picture that the attacker found through Refrain.
    pub transferred: usize,
    /// Each question to the bare model, in order.
    pub bare_course: Vec<Step>,
    /// Each question through Refrain, in order.
    pub refrain_course: Vec<Step>,
}

/// One question of an attack, as somebody sees it who stands beside the model server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When its reply was there, since the attackers of this side began.
    pub at: Duration,
    /// What was done with it.
    pub fate: Fate,
}

/// What was done with one question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The model was asked.
    Forward,
    /// It was answered, and the model was not asked.
    Replay,
    /// It was refused.
    Refuse,
}

impl Trial {
    /// Of the questions through Refrain, those that were answered without the model.
    pub fn short_circuited(&self) -> u64 {
        self.refrain.asked - self.refrain.refused - self.forwarded
    }

    /// Whether the best picture that was found through Refrain fools the bare model.
    pub fn transfers(&self) -> bool {
        self.transferred != self.bare.label
    }
}

impl Duel {
    /// How many attacks on the bare model succeeded.
    pub fn fooled_bare(&self) -> usize {
        self.trials.iter().filter(|trial| trial.bare.fooled.is_some()).count()
    }

    /// How many attackers saw another class through Refrain.
    pub fn fooled_through(&self) -> usize {
        self.trials.iter().filter(|trial| trial.refrain.fooled.is_some()).count()
    }

    /// How many pictures found through Refrain fool the bare model.
    pub fn transferred(&self) -> usize {
        self.trials.iter().filter(|trial| trial.transfers()).count()
    }
}

/// Fights it: all photographs at once, each by an attacker with a connection and a session of its own.
pub(super) async fn fight(
    world: &World,
    photos: &[Photo],
    attack: Attack,
    budget: u64,
    seed: u64,
    progress: Progress<'_>,
) -> Result<Duel, DemoError> {
    let budget = budget.min(attack.budget());
    let before = world.totals();
    let session = |photo: &Photo| format!("{}/{}", attack.name(), photo.name);
    let attack_on = |server: SocketAddr, caller: String, photo: &Photo, since: Instant| {
        let (name, picture, model) = (photo.name, photo.picture.clone(), Arc::clone(&world.model));
        async move {
            let client = Client::connect(server, &caller).await?;
            let mut watched = Watched { client, model, caller, since, forwarded: 0, course: Vec::new() };
            // The same numbers on both sides: until the answers differ, the same questions are asked.
            let random = Random::of(seed, &format!("{}/{name}", attack.name()));
            let outcome = attack.run(&mut watched, &picture, budget, random).await?;
            Ok((outcome, watched.course))
        }
    };
    let against = |server: SocketAddr, side: &'static str, note: &'static str| {
        let since = Instant::now();
        let on = |photo| attack_on(server, format!("{side}{}", session(photo)), photo, since);
        let tasks: Vec<_> = photos.iter().map(on).collect();
        all(tasks, move |done| progress(&format!("{} {note}: {done} photos done", attack.name())))
    };
    let bare = against(world.bare, "bare/", "against the bare model").await?;
    let refrain = against(world.refrain, "", "through Refrain").await?;

    let mut verifier = Client::connect(world.bare, "verifier").await?;
    let mut trials = Vec::with_capacity(photos.len());
    for ((photo, (bare, bare_course)), (refrain, refrain_course)) in photos.iter().zip(bare).zip(refrain) {
        let forwarded = world.model.asked_by(&session(photo));
        let transferred = match verifier.ask(&refrain.best).await? {
            Reply::Scores(scores) => top(&scores),
            Reply::Refused => return Err(DemoError::Refused),
        };
        if forwarded + refrain.refused > refrain.asked {
            return Err(DemoError::Accounts(format!(
                "{}: {} questions, {} refused, but the model server counts {forwarded}",
                photo.name, refrain.asked, refrain.refused
            )));
        }
        let photo = photo.name;
        trials.push(Trial { photo, bare, refrain, forwarded, transferred, bare_course, refrain_course });
    }

    // Three counts of one thing: the attackers', the model server's and Refrain's own.
    let after = world.totals();
    let forwarded: u64 = trials.iter().map(|trial| trial.forwarded).sum();
    let short_circuited: u64 = trials.iter().map(Trial::short_circuited).sum();
    let shadows = after.shadows - before.shadows;
    let counted = (after.forwarded_rows - before.forwarded_rows, after.replayed - before.replayed - shadows);
    if counted != (forwarded, short_circuited) {
        return Err(DemoError::Accounts(format!(
            "the model server and the attackers count {forwarded} forwarded and {short_circuited} short-circuited, \
             Refrain counts {} and {}",
            counted.0, counted.1
        )));
    }
    Ok(Duel { attack, trials, shadows })
}

/// An attacker's connection, and beside it what the attacker cannot see: the model server's count, read before and after.
struct Watched {
    client: Client,
    model: Arc<ModelServer>,
    caller: String,
    since: Instant,
    forwarded: u64,
    course: Vec<Step>,
}

impl Oracle for Watched {
    async fn ask(&mut self, picture: &Picture) -> Result<Reply, DemoError> {
        let reply = self.client.ask(picture).await?;
        // An attacker asks one question at a time, so what was counted since the last is this one.
        let forwarded = self.model.asked_by(&self.caller);
        let fate = match reply {
            _ if forwarded > self.forwarded => Fate::Forward,
            Reply::Scores(_) => Fate::Replay,
            Reply::Refused => Fate::Refuse,
        };
        self.forwarded = forwarded;
        self.course.push(Step { at: self.since.elapsed(), fate });
        Ok(reply)
    }
}

/// Runs `tasks` at once; their results in order.
async fn all<T: Send + 'static>(
    tasks: Vec<impl Future<Output = Result<T, DemoError>> + Send + 'static>,
    progress: impl Fn(String),
) -> Result<Vec<T>, DemoError> {
    let mut running = JoinSet::new();
    for (place, task) in tasks.into_iter().enumerate() {
        running.spawn(async move { (place, task.await) });
    }
    let many = running.len();
    let mut done = Vec::with_capacity(many);
    while let Some(ended) = running.join_next().await {
        let (place, result) = ended.map_err(|error| DemoError::Task(error.to_string()))?;
        done.push((place, result?));
        progress(format!("{} of {many}", done.len()));
    }
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

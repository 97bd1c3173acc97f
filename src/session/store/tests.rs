//! Single flight, failure and promotion, and the store's own promises: exact bytes, no orphan, no waiting in a circle.

use super::super::ledger::overhead;
use super::super::testing::{HOUR, World, answered, key, kinds, told};
use super::super::{Claim, Follow, LeaderFailed, View};
use super::*;
use crate::judgment::{Likeness, Rules};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Counts every session afresh and compares with the figures.
fn check_bytes(world: &World) {
    let walked: usize = world.store.histories(|history| history.walk() + overhead(&key(0))).iter().sum();
    let tallied: usize = world
        .store
        .histories(|history| history.tally(world.store.limits()).bytes + overhead(&key(0)))
        .iter()
        .sum();
    assert_eq!((world.store.stats().bytes, tallied), (walked, walked));
}

#[tokio::test]
async fn of_two_near_copies_together_one_leads_and_the_other_waits() {
    let world = World::hardened();
    let lead = world.ask(1, world.picture(1)).await.lead();
    let mut follow = world.ask(1, world.near(1, 1)).await.follow();
    assert_eq!(follow.ready(), None);
    assert!(poll(follow.answer()).is_pending());
    world.settle(lead, answered("cat")).await;
    assert_eq!(told(&follow.answer().await.unwrap()), "cat");
    assert!(world.ask(1, world.near(1, 2)).await.follow().ready().is_some(), "answered at once from now on");
}

#[tokio::test]
async fn settling_a_batch_answers_each_row_with_its_own() {
    let world = World::hardened();
    let rows = vec![world.picture(1), world.picture(2)];
    let leads = world.put(world.question(1, rows)).await.into_iter().map(Judged::lead);
    let outcomes = ["one", "two"].map(answered);
    world.store.settle(leads.zip(outcomes).collect()).await;
    assert_eq!(world.ask_and_answer(1, world.near(2, 1), "").await, "two");
    assert_eq!(world.ask_and_answer(1, world.near(1, 1), "").await, "one");
}

#[tokio::test]
async fn a_failed_forward_is_forgotten_and_its_followers_are_told() {
    for dropped in [false, true] {
        let world = World::hardened();
        let lead = world.ask(1, world.picture(1)).await.lead();
        let mut follow = world.ask(1, world.near(1, 1)).await.follow();
        if dropped {
            drop(lead);
        } else {
            world.settle(lead, Outcome::Failed).await;
        }
        assert_eq!(follow.answer().await, Err(LeaderFailed));
        assert_eq!((world.store.stats().anchors, world.store.stats().ghosts), (0, 0));
        let judged = world.ask(1, world.near(1, 2)).await;
        assert_eq!((judged.kind(), judged.evidence.suspect), ("forward", false));
        check_bytes(&world);
    }
}

/// What a waiting call does: wait, and come again when the leader failed.
async fn wait(world: Arc<World>, row: Likeness, mut follow: Follow, forwards: Arc<AtomicU64>) -> String {
    loop {
        if let Ok(answer) = follow.answer().await {
            return told(&answer);
        }
        let question = world.question(1, vec![row.clone()]);
        match world.put(question).await.remove(0).claim {
            Claim::Forward(lead) => {
                let n = forwards.fetch_add(1, Ordering::SeqCst);
                // Long enough for all others to come and find this one.
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                world.settle(lead, answered(&format!("promoted {n}"))).await;
                return format!("promoted {n}");
            }
            Claim::Replay(again) => follow = again,
            Claim::Refuse => return "refused".into(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_twenty_waiters_of_a_cancelled_leader_exactly_one_is_promoted() {
    let world = Arc::new(World::hardened());
    let forwards = Arc::new(AtomicU64::new(0));
    let lead = world.ask(1, world.picture(1)).await.lead();
    let mut waiters = Vec::new();
    for nth in 0..20 {
        let row = world.near(1, nth);
        let follow = world.ask(1, row.clone()).await.follow();
        waiters.push(tokio::spawn(wait(world.clone(), row, follow, forwards.clone())));
    }
    tokio::task::yield_now().await;
    waiters.remove(0).abort();
    drop(lead);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), "promoted 0");
    }
    assert_eq!(forwards.load(Ordering::SeqCst), 1);
    assert_eq!(world.store.stats().anchors, 1);
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_on_each_others_rows_end_because_each_settles_before_it_waits() {
    let world = Arc::new(World::hardened());
    let first = world.put(world.question(1, vec![world.picture(1), world.picture(2)])).await;
    let mut calls = Vec::new();
    for order in [[1, 2], [2, 1]] {
        let rows = order.map(|seed| world.near(seed, seed as usize)).to_vec();
        let judged = world.put(world.question(1, rows.clone())).await;
        assert_eq!(kinds(&judged), ["replay"; 2]);
        let world = world.clone();
        calls.push(async move {
            let mut told_rows = vec![String::new(); 2];
            let mut waiting: Vec<_> = judged.into_iter().map(Judged::follow).enumerate().collect();
            while !waiting.is_empty() {
                // Come again for one failed row at a time, the order of the two calls crossed, so that each comes to
                // lead what the other follows.
                let (index, mut follow) = waiting.remove(0);
                if let Ok(answer) = follow.answer().await {
                    told_rows[index] = told(&answer);
                    continue;
                }
                let question = world.question(1, vec![rows[index].clone()]);
                match world.put(question).await.remove(0).claim {
                    Claim::Forward(lead) => {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                        world.settle(lead, answered(&format!("row {}", order[index]))).await;
                        told_rows[index] = format!("row {}", order[index]);
                    }
                    Claim::Replay(again) => waiting.push((index, again)),
                    Claim::Refuse => unreachable!("nothing here is suspect"),
                }
            }
            (order, told_rows)
        });
    }
    drop(first);
    let (second, first) = (calls.pop().unwrap(), calls.pop().unwrap());
    let both = async { tokio::join!(first, second) };
    let (a, b) = tokio::time::timeout(HOUR, both).await.expect("neither waits for ever");
    for (order, rows) in [a, b] {
        assert_eq!(rows, order.map(|seed| format!("row {seed}")));
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_kept_leaves_the_likeness() {
    for too_large in [false, true] {
        let world = World::hardened();
        let lead = world.ask(1, world.picture(1)).await.lead();
        let mut follow = world.ask(1, world.near(1, 1)).await.follow();
        let outcome = if too_large { answered(&"x".repeat((64 << 10) + 1)) } else { Outcome::Unkept };
        world.settle(lead, outcome).await;
        check_bytes(&world);
        assert_eq!(follow.answer().await, Err(LeaderFailed));
        let stats = world.store.stats();
        assert_eq!((stats.anchors, stats.ghosts, stats.oversized_answers), (1, 0, u64::from(too_large)));

        // The follower comes again and finds no leader to follow; an exact repeat tells nothing new.
        let again = world.ask(1, world.near(1, 1)).await;
        assert_eq!((again.kind(), again.evidence.suspect), ("forward", true));
        drop(again);
        let exact = world.ask(1, world.picture(1)).await;
        assert_eq!((exact.kind(), exact.evidence.suspect), ("forward", false));
        assert_eq!(world.finish(exact, "cat").await, "fresh cat");
        assert_eq!(world.ask_and_answer(1, world.near(1, 2), "").await, "cat", "this time it could be kept");
        check_bytes(&world);
    }
}

#[tokio::test]
async fn an_answer_of_the_largest_size_is_kept() {
    let world = World::hardened();
    let largest = "x".repeat(64 << 10);
    assert_eq!(world.ask_and_answer(1, world.picture(1), &largest).await, format!("fresh {largest}"));
    assert_eq!(world.ask_and_answer(1, world.near(1, 1), "").await, largest);
}

#[tokio::test]
async fn a_search_whose_answers_cannot_be_kept_ends_in_refusals() {
    let world = World::hardened();
    let (mut forwarded, mut refused) = (0, 0);
    for nth in 0..100 {
        match world.ask(1, world.near(1, nth)).await.claim {
            Claim::Forward(lead) => {
                world.settle(lead, Outcome::Unkept).await;
                forwarded += 1;
            }
            Claim::Refuse => refused += 1,
            Claim::Replay(_) => unreachable!("no answer is there"),
        }
    }
    assert_eq!((forwarded, refused), (9, 91), "the first picture and eight suspects");
}

#[tokio::test]
async fn an_evicted_anchor_whose_answer_could_not_be_kept_has_its_ghost() {
    let world = World::new(Rules::hardened(), Limits { anchors_never_hit: 1, ..Limits::default() });
    let lead = world.ask(1, world.picture(1)).await.lead();
    world.ask_and_answer(1, world.picture(2), "dog").await;
    world.settle(lead, Outcome::Unkept).await;
    assert!(world.ask(1, world.near(1, 1)).await.evidence.suspect);
    check_bytes(&world);
}

#[tokio::test]
async fn an_evicted_anchor_still_serves_those_who_follow_it() {
    let world =
        World::new(Rules::hardened(), Limits { anchors_never_hit: 1, anchors_hit: 1, ..Limits::default() });
    let lead = world.ask(1, world.picture(1)).await.lead();
    let mut follow = world.ask(1, world.near(1, 1)).await.follow();
    let other = world.ask(1, world.picture(2)).await;
    let _hit = world.ask(1, world.near(2, 1)).await;
    assert_eq!(world.store.stats().ghosts, 1, "the first anchor has left");
    world.settle(lead, answered("cat")).await;
    assert_eq!(told(&follow.answer().await.unwrap()), "cat");
    drop(other);
}

#[tokio::test]
async fn clearing_the_store_disturbs_no_call_in_flight() {
    let world = World::hardened();
    let lead = world.ask(1, world.picture(1)).await.lead();
    let mut follow = world.ask(1, world.near(1, 1)).await.follow();
    let visit = world.store.shared.enter(&key(1), false, Instant::now());
    world.store.clear();
    assert_eq!(world.store.stats().sessions, 0);
    // A call that was judged meanwhile belongs to what was cleared.
    let late = visit.judge(world.question(1, vec![world.picture(2)]), Instant::now());
    drop(visit);
    assert_eq!((world.store.stats().sessions, world.store.stats().bytes), (0, 0));
    // A new session of the same caller is none of the old leads' business.
    let fresh = world.ask(1, world.picture(1)).await;
    drop(late);
    world.settle(lead, answered("cat")).await;
    assert_eq!(told(&follow.answer().await.unwrap()), "cat");
    assert_eq!(world.ask(1, world.near(1, 2)).await.follow().ready(), None, "it follows the new lead");
    world.settle(fresh.lead(), answered("dog")).await;
    assert_eq!(world.ask_and_answer(1, world.near(1, 3), "").await, "dog");
    check_bytes(&world);
}

#[tokio::test]
async fn a_session_does_not_leave_between_look_up_and_judging() {
    let world = World::new(Rules::hardened(), Limits { sessions: 10, ..Limits::default() });
    let visit = world.store.shared.enter(&key(0), false, Instant::now());
    for caller in 1..100 {
        world.ask_and_answer(caller, world.picture(1), "x").await;
    }
    let judged = visit.judge(world.question(0, vec![world.picture(1)]), Instant::now()).remove(0);
    drop(visit);
    assert_eq!(world.store.stats().sessions, 10);
    let again = world.ask(0, world.near(1, 1)).await;
    assert_eq!(again.kind(), "replay", "what was claimed is found by the next call");
    drop(judged);
}

#[tokio::test]
async fn an_orphan_of_a_panic_is_not_waited_for() {
    let world = World::hardened();
    let visit = world.store.shared.enter(&key(1), false, Instant::now());
    // Never armed: as if judging had panicked before the store handed the lead out.
    drop(visit.judge(world.question(1, vec![world.picture(1)]), Instant::now()));
    drop(visit);
    assert_eq!(world.store.stats().anchors, 1);
    assert_eq!(world.ask(1, world.near(1, 1)).await.kind(), "forward");
}

#[tokio::test]
async fn the_store_keeps_its_own_copy_of_an_answer() {
    let world = World::hardened();
    let reply = Bytes::from(vec![b'x'; 1 << 20]);
    let lead = world.ask(1, world.picture(1)).await.lead();
    let answer = Answer { bytes: reply.slice(..10), version: "1".into(), took: std::time::Duration::ZERO };
    world.settle(lead, Outcome::Answered(answer)).await;
    assert!(reply.is_unique(), "ten bytes kept must not keep a whole reply");
}

#[tokio::test(start_paused = true)]
async fn the_bytes_are_counted_to_the_last() {
    let limits =
        Limits { anchors_never_hit: 4, anchors_hit: 3, ghosts: 40, answered: 10, ..Limits::default() };
    let world = World::new(Rules::hardened(), limits);
    let mut open = Vec::new();
    for step in 0..600_u32 {
        let caller = step % 7;
        let row = match step % 5 {
            0 | 1 => world.picture(step / 9),
            2 => world.near(step / 9, step as usize % 900),
            3 => world.spotted(step / 11, 0..20),
            _ => world.suspect(step / 10, step as usize % 7),
        };
        let model: Arc<str> = "m".repeat(1 + step as usize % 3).into();
        let question = world.question(caller, vec![row.clone(), world.near(step, 2), row]);
        let view = View { model, ..question.view.clone() };
        let question = super::super::Question { view, whole: step % 17 == 0, ..question };
        open.extend(world.put(question).await);
        check_bytes(&world);
        if step % 3 == 0 {
            for judged in open.drain(..open.len() / 2) {
                match judged.claim {
                    Claim::Forward(lead) if step % 4 == 0 => drop(lead),
                    Claim::Forward(lead) if step % 5 == 0 => world.settle(lead, Outcome::Unkept).await,
                    Claim::Forward(lead) => {
                        world.settle(lead, answered(&"y".repeat(step as usize))).await;
                    }
                    _ => {}
                }
                check_bytes(&world);
            }
        }
        if step % 50 == 49 {
            tokio::time::advance(HOUR / 2).await;
        }
    }
    drop(open);
    check_bytes(&world);
    assert!(world.store.stats().anchors > 0 && world.store.stats().ghosts > 0);
    tokio::time::advance(48 * HOUR).await;
    world.store.tidy();
    let stats = world.store.stats();
    assert_eq!((stats.sessions, stats.anchors, stats.ghosts, stats.bytes), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_calls_at_once_keep_the_figures_and_the_cap() {
    let limits = Limits { session_bytes: 60_000, sessions: 40, ..Limits::within(600_000) };
    let world = Arc::new(World::new(Rules::hardened(), limits));
    let mut tasks = Vec::new();
    for task in 0..8_u32 {
        let world = world.clone();
        tasks.push(tokio::spawn(async move {
            for step in 0..300 {
                let rows = vec![world.picture(step % 20), world.near(step % 20, 1 + task as usize)];
                for judged in world.put(world.question((step * 7 + task) % 60, rows)).await {
                    match judged.claim {
                        Claim::Forward(lead) if step % 5 == 0 => drop(lead),
                        Claim::Forward(lead) => world.settle(lead, answered("cat")).await,
                        Claim::Replay(mut follow) => drop(follow.answer().await),
                        Claim::Refuse => {}
                    }
                }
                assert!(world.store.stats().bytes <= 600_000);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    check_bytes(&world);
    assert!(world.store.stats().sessions <= 40);
}

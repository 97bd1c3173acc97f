//! Who leaves for whom: floods, caps, silence.

use super::super::Store;
use super::super::testing::{HOUR, SECOND, World, answered};
use super::*;
use crate::judgment::Rules;

const MINUTE: Duration = Duration::from_mins(1);

/// Room for some hundreds of sessions of one anchor each.
fn small() -> World {
    World::new(Rules::hardened(), Limits { session_bytes: 100_000, ..Limits::within(2_000_000) })
}

/// Earns `caller` its establishment with four forwards a minute; `base` keeps its pictures apart.
async fn establish(world: &World, caller: u32, verified: bool) {
    for step in 0..40 {
        let question = world.question(caller, vec![world.picture(caller * 1000 + step)]);
        let judged = world.put(super::super::Question { verified, ..question }).await.remove(0);
        world.finish(judged, &step.to_string()).await;
        tokio::time::advance(MINUTE / 4).await;
    }
    // The one that finds the time served.
    tokio::time::advance(MINUTE).await;
    world.ask(caller, world.picture(caller * 1000)).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_established_by_forwards_over_time_and_not_by_haste() {
    let world = small();
    for step in 0..40 {
        world.ask_and_answer(1, world.picture(step), "x").await;
    }
    assert_eq!(world.store.stats().established, 0, "a flood can buy forwards, but not time");
    world.ask_and_answer(2, world.picture(1), "x").await;
    tokio::time::advance(10 * MINUTE).await;
    world.ask_and_answer(2, world.picture(2), "x").await;
    assert_eq!(world.store.stats().established, 0, "and time alone is not enough");
    world.ask_and_answer(1, world.picture(1), "x").await;
    assert_eq!(world.store.stats().established, 1);
}

#[tokio::test(start_paused = true)]
async fn forwards_that_fail_establish_nobody() {
    let world = small();
    for step in 0..40 {
        drop(world.ask(1, world.picture(step)).await);
    }
    tokio::time::advance(20 * MINUTE).await;
    drop(world.ask(1, world.picture(50)).await);
    assert_eq!(world.store.stats().established, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_100_000_callers_leaves_the_established_and_the_verified_alone() {
    let world = World::new(Rules::hardened(), Limits::within(8 << 20));
    establish(&world, 1, false).await;
    establish(&world, 2, true).await;
    assert_eq!(world.store.stats().established, 2);
    // A verified caller who came a moment ago.
    let question = world.question(3, vec![world.picture(3000)]);
    let judged = world.put(super::super::Question { verified: true, ..question }).await.remove(0);
    world.finish(judged, "newcomer").await;
    let before = world.store.stats();

    let picture = world.picture(9);
    for caller in 0..100_000 {
        let judged = world.ask(1_000_000 + caller, picture.clone()).await;
        world.settle(judged.lead(), answered("flood")).await;
    }

    let stats = world.store.stats();
    assert!(stats.bytes <= 8 << 20 && stats.bytes > 7 << 20, "the cap holds, and is used: {}", stats.bytes);
    assert!(stats.departures.sessions_for_room > 90_000);
    assert_eq!(stats.established, before.established);
    for (caller, near, told) in [(1, 1020, "20"), (2, 2020, "20"), (1, 1039, "39"), (3, 3000, "newcomer")] {
        assert_eq!(world.ask_and_answer(caller, world.near(near, 1), "").await, told);
    }
}

#[tokio::test(start_paused = true)]
async fn the_newcomer_silent_longest_leaves_first() {
    let world = World::new(Rules::hardened(), Limits { sessions: 3, ..Limits::default() });
    for caller in [1, 2, 3, 1, 4] {
        world.ask_and_answer(caller, world.picture(caller), "x").await;
    }
    assert_eq!(world.store.stats().sessions, 3);
    for (caller, kind) in [(1, "replay"), (3, "replay"), (4, "replay"), (2, "forward")] {
        assert_eq!(world.ask(caller, world.near(caller, 1)).await.kind(), kind, "{caller}");
    }
}

#[tokio::test(start_paused = true)]
async fn verified_newcomers_cannot_starve_the_others_either() {
    let world = small();
    for caller in 0..2000 {
        let question = world.question(caller, vec![world.picture(1)]);
        let judged =
            world.put(super::super::Question { verified: caller % 10 != 0, ..question }).await.remove(0);
        world.finish(judged, "x").await;
    }
    let ledger = world.store.ledger();
    let held = |verified| ledger.sum(|class| class.verified == verified).bytes;
    assert!(held(false) > 800_000, "{} of {}", held(false), held(true));
}

#[tokio::test(start_paused = true)]
async fn established_sessions_leave_newcomers_a_tenth_and_verified_callers_half_of_the_rest() {
    let limits = Limits { session_bytes: 100_000, established_forwards: 4, ..Limits::within(2_000_000) };
    let world = World::new(Rules::hardened(), limits);
    // Thirty callers of each kind come to stay, and then each asks for more than its share of the room.
    let verified = |caller: u32| caller.is_multiple_of(2);
    for step in 0..30 {
        for caller in 0..60 {
            let question = world.question(caller, vec![world.picture(caller * 1000 + step)]);
            let question = super::super::Question { verified: verified(caller), ..question };
            let judged = world.put(question).await.remove(0);
            world.finish(judged, "x").await;
        }
        if step == 4 {
            tokio::time::advance(10 * MINUTE).await;
        }
    }
    let stats = world.store.stats();
    assert_eq!(stats.established, 60);
    let established = {
        let ledger = world.store.ledger();
        let all = ledger.sum(|class| class.established).bytes;
        let unverified = ledger.sum(|class| class.established && !class.verified).bytes;
        assert!(all <= 1_800_000 && unverified <= 900_000, "{all} {unverified}");
        assert!(all > 1_700_000 && unverified > 800_000, "and use them: {all} {unverified}");
        all
    };
    for caller in 1000..1100 {
        world.ask_and_answer(caller, world.picture(1), "x").await;
    }
    let stats = world.store.stats();
    assert!(stats.bytes > established + 150_000, "newcomers have their tenth");
}

#[tokio::test(start_paused = true)]
async fn an_established_session_past_its_share_lets_go_of_its_own_oldest() {
    let world = small();
    establish(&world, 1, true).await;
    for step in 0..200 {
        world.ask_and_answer(1, world.picture(1500 + step), "late").await;
        assert!(world.store.stats().bytes <= 100_000);
    }
    assert_eq!(world.store.stats().established, 1);
    assert_eq!(world.ask_and_answer(1, world.near(1699, 1), "").await, "late");
    let old = world.ask(1, world.near(1010, 1)).await;
    assert_eq!((old.kind(), old.evidence.suspect), ("refuse", true), "its ghost remains");
}

#[tokio::test(start_paused = true)]
async fn sessions_leave_after_a_day_of_silence_established_or_not() {
    let world = small();
    establish(&world, 1, true).await;
    world.ask_and_answer(2, world.picture(1), "x").await;
    tokio::time::advance((24 * HOUR).saturating_sub(SECOND)).await;
    world.store.tidy();
    assert_eq!(world.store.stats().sessions, 2);
    tokio::time::advance(SECOND).await;
    world.store.tidy();
    let stats = world.store.stats();
    assert_eq!((stats.sessions, stats.departures.sessions_idle), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_lets_go_of_its_expired_anchors_while_others_ask() {
    let world = small();
    for caller in 0..5 {
        world.ask_and_answer(caller, world.picture(1), "x").await;
    }
    let full = world.store.stats();
    tokio::time::advance(HOUR).await;
    for _ in 0..3 {
        world.ask_and_answer(9, world.picture(1), "x").await;
    }
    let stats = world.store.stats();
    assert_eq!((full.anchors, stats.anchors, stats.ghosts), (5, 1, 5));
    assert!(stats.bytes < full.bytes);
    assert!(world.ask(1, world.near(1, 1)).await.evidence.suspect, "by its ghost");
}

#[tokio::test(start_paused = true)]
async fn a_store_too_small_for_one_session_still_lets_calls_pass() {
    let world = World::new(Rules::hardened(), Limits::within(100));
    let lead = world.ask(1, world.picture(1)).await.lead();
    assert_eq!((world.store.stats().sessions, world.store.stats().bytes), (0, 0));
    world.settle(lead, answered("x")).await;
}

#[test]
fn every_departure_has_a_label_of_its_own() {
    let labels: std::collections::BTreeSet<_> =
        Departures::default().by_reason().into_iter().map(|(label, _)| label).collect();
    assert_eq!(labels.len(), 6);
}

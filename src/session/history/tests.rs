//! What a session's past does to its next call, row by row.

use super::super::testing::{HOUR, SECOND, World, answered, kinds};
use super::super::{Answer, Outcome, Store};
use super::*;
use crate::judgment::{OnSuspected, Rules};

#[tokio::test]
async fn the_made_up_pictures_are_near_suspect_and_unrelated_as_they_say() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "cat").await;
    assert_eq!(world.ask(1, world.near(1, 3)).await.kind(), "replay");
    let suspect = world.ask(1, world.suspect(1, 0)).await;
    assert!(suspect.evidence.suspect && suspect.kind() == "forward");
    let unrelated = world.ask(1, world.picture(2)).await;
    assert!(!unrelated.evidence.suspect && unrelated.kind() == "forward");
    assert_eq!(world.ask(2, world.near(1, 3)).await.kind(), "forward", "answers never cross callers");
}

#[tokio::test]
async fn rows_are_judged_in_order_against_the_earlier_rows_of_their_call() {
    let world = World::hardened();
    let rows = vec![world.picture(1), world.near(1, 1), world.picture(2), world.near(2, 1), world.picture(1)];
    let judged = world.put(world.question(1, rows)).await;
    assert_eq!(kinds(&judged), ["forward", "replay", "forward", "replay", "replay"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_tells_the_age_and_the_hits_of_its_anchor() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "cat").await;
    tokio::time::advance(5 * SECOND).await;
    let facts = world.ask(1, world.near(1, 1)).await.anchor.unwrap();
    assert_eq!(facts, AnchorFacts { age: 5 * SECOND, hits: 1, origin: None });
    let facts = world.ask(1, world.picture(1)).await.anchor.unwrap();
    assert_eq!(facts, AnchorFacts { age: 5 * SECOND, hits: 2, origin: None });
}

async fn eight_suspects(world: &World) {
    world.ask_and_answer(1, world.picture(1), "cat").await;
    for nth in 0..8 {
        let judged = world.ask(1, world.suspect(1, nth)).await;
        assert_eq!((judged.kind(), judged.evidence.suspect), ("forward", true), "{nth}");
        world.finish(judged, "dog").await;
    }
}

#[tokio::test(start_paused = true)]
async fn eight_suspects_make_a_session_suspected_and_time_forgives_one_by_one() {
    let world = World::hardened();
    eight_suspects(&world).await;
    assert_eq!(world.ask(1, world.suspect(1, 9)).await.kind(), "refuse");
    assert_eq!(world.ask(2, world.suspect(1, 9)).await.kind(), "forward", "others are not suspected");
    tokio::time::advance((3 * HOUR).saturating_sub(SECOND)).await;
    assert_eq!(
        world.ask(1, world.suspect(1, 9)).await.kind(),
        "refuse",
        "by the ghosts, the anchors are gone"
    );
    tokio::time::advance(SECOND).await;
    assert_eq!(world.ask(1, world.suspect(1, 9)).await.kind(), "forward", "one is forgiven");
    assert_eq!(world.ask(1, world.suspect(1, 10)).await.kind(), "refuse", "and was counted again");
}

#[tokio::test(start_paused = true)]
async fn who_is_suspected_is_counted_as_of_now_and_not_as_of_its_last_call() {
    let world = World::hardened();
    let suspected = || {
        let glances = world.store.glances(10).iter().filter(|glance| glance.suspected).count();
        assert_eq!(world.store.stats().suspected, glances);
        glances
    };
    eight_suspects(&world).await;
    world.ask_and_answer(2, world.picture(1), "cat").await;
    assert_eq!(suspected(), 1);
    tokio::time::advance((3 * HOUR).saturating_sub(SECOND)).await;
    assert_eq!(suspected(), 1);
    tokio::time::advance(SECOND).await;
    assert_eq!(suspected(), 0, "though nobody called");
    assert_eq!(world.ask(1, world.suspect(1, 9)).await.kind(), "forward");
    assert_eq!(suspected(), 1, "and counted again, for three hours from then");
    world.store.clear();
    assert_eq!(suspected(), 0);
    tokio::time::advance(4 * HOUR).await;
    eight_suspects(&world).await;
    tokio::time::advance(25 * HOUR).await;
    world.store.tidy();
    assert_eq!((suspected(), world.store.stats().sessions), (0, 0), "whoever left is not counted");
}

#[tokio::test(start_paused = true)]
async fn by_default_a_suspect_row_is_refused_from_the_first_one_on() {
    let world = World::new(Rules::hardened(), Limits::default());
    world.ask_and_answer(1, world.picture(1), "cat").await;
    assert_eq!(world.store.stats().suspected, 0, "nobody is suspected before there was a suspect row");
    for nth in 0..3 {
        let judged = world.ask(1, world.suspect(1, nth)).await;
        assert_eq!((judged.kind(), judged.evidence.suspect), ("refuse", true), "{nth}");
    }
    assert_eq!(world.store.stats().suspected, 1);
    assert_eq!(world.ask(1, world.near(1, 1)).await.kind(), "replay", "what may be replayed is");
    assert_eq!(world.ask(1, world.picture(2)).await.kind(), "forward", "and what is new is asked");
    tokio::time::advance(3 * HOUR).await;
    assert_eq!(world.store.stats().suspected, 0);
    assert_eq!(world.ask(1, world.suspect(1, 9)).await.kind(), "refuse", "by the ghost");
}

#[tokio::test]
async fn a_row_is_counted_whatever_becomes_of_its_call() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "cat").await;
    for nth in 0..8 {
        drop(world.ask(1, world.suspect(1, nth)).await);
    }
    assert_eq!(world.ask(1, world.suspect(1, 9)).await.kind(), "refuse");
}

#[tokio::test]
async fn a_row_that_comes_again_since_its_leader_failed_counts_as_any_other() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "cat").await;
    for nth in 0..4 {
        let lead = world.ask(1, world.suspect(1, nth)).await.lead();
        // One spot more than the leader: replayed from it, so not counted.
        let follower = || world.spotted(1, nth * 60..nth * 60 + 61);
        let follow = world.ask(1, follower()).await.follow();
        drop((lead, follow));
        let again = world.ask(1, follower()).await;
        assert_eq!((again.kind(), again.evidence.suspect), ("forward", true), "{nth}");
    }
    assert_eq!(world.ask(1, world.suspect(1, 9)).await.kind(), "refuse", "four leaders and four followers");
}

#[tokio::test]
async fn the_count_rises_within_a_call() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "cat").await;
    let rows = (0..9).map(|nth| world.suspect(1, nth)).collect();
    let judged = world.put(world.question(1, rows)).await;
    assert_eq!(kinds(&judged)[7..], ["forward", "refuse"]);
}

#[tokio::test(start_paused = true)]
async fn refused_suspects_do_not_prolong_a_suspicion() {
    let world = World::hardened();
    eight_suspects(&world).await;
    // While suspected: refused, again and again, which must not keep the count up.
    tokio::time::advance((3 * HOUR).saturating_sub(SECOND)).await;
    for nth in 9..17 {
        assert_eq!(world.ask(1, world.suspect(1, nth)).await.kind(), "refuse");
    }
    tokio::time::advance(SECOND).await;
    assert_eq!(world.ask(1, world.suspect(1, 9)).await.kind(), "forward");
}

#[tokio::test(start_paused = true)]
async fn a_camera_that_may_go_on_is_never_counted_past_the_limit() {
    let rules = Rules { on_suspected: OnSuspected::Forward, ..Rules::hardened() };
    let world = World::new(rules, Limits { suspicions: 8, ..Limits::default() });
    world.ask_and_answer(1, world.picture(1), "cat").await;
    for nth in 0..16 {
        assert_eq!(world.ask(1, world.suspect(1, nth)).await.kind(), "forward");
    }
    let strict = Judge::new(Rules::hardened(), [7; 32]);
    tokio::time::advance(3 * HOUR).await;
    let mut question = world.question(1, vec![world.suspect(1, 1), world.picture(1)]);
    question.judge = strict.into();
    assert_eq!(kinds(&world.put(question).await)[0], "forward", "8, not 16, and one of them forgiven");
}

#[tokio::test]
async fn the_same_image_never_gets_two_answers_even_if_a_nearer_anchor_came_later() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "first").await;
    let between = || world.spotted(1, 0..18);
    assert_eq!(world.ask_and_answer(1, between(), "").await, "first");
    // 38 spots away from the first picture, which the guard does not let through, yet nearer to the one between.
    assert_eq!(world.ask_and_answer(1, world.spotted(1, 0..38), "second").await, "fresh second");
    let again = world.ask(1, between()).await;
    assert_eq!((again.evidence.reason, again.evidence.suspect), (Reason::Exact, false));
    assert_eq!(world.finish(again, "").await, "first");
    assert_eq!(world.ask_and_answer(1, world.spotted(1, 0..20), "").await, "second", "the nearer, if new");
}

#[tokio::test]
async fn who_answered_is_remembered_within_bounds() {
    let world = World::new(Rules::hardened(), Limits { answered: 4, suspicions: 8, ..Limits::default() });
    world.ask_and_answer(1, world.picture(1), "first").await;
    world.ask_and_answer(1, world.spotted(1, 0..18), "").await;
    world.ask_and_answer(1, world.spotted(1, 0..38), "second").await;
    for nth in 40..44 {
        world.ask_and_answer(1, world.near(1, nth), "").await;
    }
    assert_eq!(world.ask_and_answer(1, world.spotted(1, 0..20), "").await, "second");
}

#[tokio::test]
async fn an_exact_repeat_of_ghosts_is_forwarded_and_not_counted() {
    let limits = Limits { anchors_never_hit: 2, ..Limits::default() };
    let world = World::new(Rules::hardened(), limits);
    // An honest client that goes round and round a set of pictures larger than the memory.
    for round in 0..20 {
        for seed in 0..5 {
            let judged = world.ask(1, world.picture(seed)).await;
            let exact = if round == 0 { Reason::New } else { Reason::Exact };
            assert_eq!((judged.evidence.reason, judged.evidence.suspect), (exact, false));
            assert_eq!(judged.kind(), "forward");
            world.finish(judged, "x").await;
        }
    }
    let near = world.ask(1, world.near(0, 1)).await;
    assert_eq!((near.evidence.reason, near.evidence.suspect), (Reason::Ghost, true));
}

fn seen_as(model: &str, version: &str, form: u64, inputs: u64) -> View {
    View { model: model.into(), version: version.into(), form, inputs }
}

#[tokio::test]
async fn an_answer_is_for_its_own_view() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "cat").await;
    for other in [
        seen_as("other", "1", 0, 0),
        seen_as("model", "2", 0, 0),
        seen_as("model", "1", 1, 0),
        seen_as("model", "1", 0, 1),
    ] {
        let rows = vec![world.near(1, 1), world.picture(1)];
        let judged = world.put(Question { view: other, ..world.question(1, rows) }).await;
        assert_eq!((judged[0].kind(), judged[0].evidence.suspect), ("forward", true));
        assert_eq!(judged[1].kind(), "replay", "from the first row, in its own view");
    }
    let exact = world
        .put(Question { view: seen_as("third", "1", 0, 0), ..world.question(1, vec![world.picture(1)]) });
    let exact = exact.await.remove(0);
    assert_eq!((exact.kind(), exact.evidence.suspect), ("forward", false));
}

#[tokio::test]
async fn the_same_image_in_ever_new_views_is_suspect_after_a_few() {
    let world = World::hardened();
    for form in 0..20 {
        let question = world.question(1, vec![world.picture(1)]);
        let judged = world.put(Question { view: seen_as("model", "1", form, 0), ..question }).await.remove(0);
        let expected = match form {
            0 => ("forward", Reason::New, false),
            1..4 => ("forward", Reason::Exact, false),
            4..12 => ("forward", Reason::OtherView, true),
            _ => ("refuse", Reason::OtherView, true),
        };
        assert_eq!((judged.kind(), judged.evidence.reason, judged.evidence.suspect), expected, "{form}");
        world.finish(judged, "cat").await;
    }
    assert_eq!(world.ask_and_answer(1, world.picture(1), "").await, "cat", "in a view that has it, as ever");
}

#[tokio::test]
async fn the_same_image_whose_answer_cannot_be_kept_is_suspect_after_a_few() {
    let world = World::hardened();
    for time in 0..20 {
        let judged = world.ask(1, world.picture(1)).await;
        let expected = match time {
            0..4 => ("forward", false),
            4..12 => ("forward", true),
            _ => ("refuse", true),
        };
        assert_eq!((judged.kind(), judged.evidence.suspect), expected, "{time}");
        if let Claim::Forward(lead) = judged.claim {
            world.settle(lead, Outcome::Unkept).await;
        }
    }
}

#[tokio::test]
async fn after_a_few_other_inputs_they_no_longer_separate_views() {
    let world = World::hardened();
    for inputs in 0..4 {
        let question = world.question(1, vec![world.near(1, inputs as usize)]);
        let judged = world.put(Question { view: seen_as("model", "1", 0, inputs), ..question }).await;
        assert_eq!(kinds(&judged), ["forward"]);
        world.finish(judged.into_iter().next().unwrap(), "cat").await;
    }
    let fifth =
        || Question { view: seen_as("model", "1", 0, 9), ..world.question(1, vec![world.near(1, 9)]) };
    assert_eq!(kinds(&world.put(fifth()).await), ["replay"]);
    assert_eq!(kinds(&world.put(fifth()).await), ["replay"], "and is remembered in its own view");
}

#[tokio::test]
async fn an_anchor_takes_on_the_version_that_answered() {
    let world = World::hardened();
    let lead = world.ask(1, world.picture(1)).await.lead();
    let Outcome::Answered(answer) = answered("cat") else { unreachable!() };
    world.settle(lead, Outcome::Answered(Answer { version: "2".into(), ..answer })).await;
    assert_eq!(world.ask(1, world.near(1, 1)).await.kind(), "forward", "version 1 did not answer");
    let question =
        Question { view: seen_as("model", "2", 0, 0), ..world.question(1, vec![world.picture(1)]) };
    assert_eq!(kinds(&world.put(question).await), ["replay"]);
}

fn whole(world: &World, rows: Vec<Likeness>) -> Question {
    Question { whole: true, ..world.question(1, rows) }
}

async fn settle_all(world: &World, judged: Vec<Judged>, text: &str) {
    let settled = judged.into_iter().map(|row| (row.lead(), answered(text))).collect();
    world.store.settle(settled).await;
}

#[tokio::test]
async fn each_distinct_suspect_row_of_an_unsplittable_call_counts() {
    let world = World::hardened();
    world.ask_and_answer(1, world.picture(1), "cat").await;
    for nth in 0..4 {
        let (one, other) = (world.near(1, nth as usize), world.near(1, 50 + nth as usize));
        let rows = vec![world.picture(100 + nth), one.clone(), other, one];
        let judged = world.put(whole(&world, rows)).await;
        assert_eq!(kinds(&judged), ["forward"; 4], "nothing is replayed inside; call {nth}");
        let suspect: Vec<_> = judged.iter().map(|row| row.evidence.suspect).collect();
        assert_eq!(suspect, [false, true, true, false]);
        settle_all(&world, judged, "batch").await;
    }
    let judged = world.put(whole(&world, vec![world.picture(200), world.near(1, 99)])).await;
    assert_eq!(kinds(&judged), ["refuse"; 2], "one refused row refuses the call");
    assert_eq!(world.ask(1, world.picture(200)).await.evidence.reason, Reason::New, "and it left no anchor");
}

#[tokio::test]
async fn a_great_batch_of_near_copies_is_refused_whole_and_what_it_counted_stays() {
    let world = World::hardened();
    let mut rows: Vec<_> = (0..200).map(|nth| world.near(1, nth)).collect();
    rows.insert(0, world.picture(1));
    let judged = world.put(whole(&world, rows)).await;
    assert!(kinds(&judged).iter().all(|kind| *kind == "refuse"));
    let suspect = judged.iter().filter(|row| row.evidence.suspect).count();
    assert_eq!(suspect, 200, "all but the first picture");
    assert_eq!((world.store.stats().anchors, world.store.stats().ghosts), (0, 0), "nothing of it is claimed");
    world.ask_and_answer(1, world.picture(2), "cat").await;
    assert_eq!(world.ask(1, world.suspect(2, 0)).await.kind(), "refuse", "the session is suspected");
}

#[tokio::test]
async fn a_great_batch_of_near_copies_passes_where_suspects_are_forwarded() {
    let rules = Rules { on_suspected: OnSuspected::Forward, ..Rules::hardened() };
    let world = World::new(rules, Limits::default());
    let judged = world.put(whole(&world, (0..20).map(|nth| world.near(1, nth)).collect())).await;
    assert_eq!(kinds(&judged), ["forward"; 20]);
    assert_eq!(world.store.stats().anchors, 20);
}

#[tokio::test]
async fn an_unsplittable_call_sent_again_is_suspect_after_a_few_times() {
    let world = World::hardened();
    // Alone first, so that an answer in the same view is there: a whole call has no use for it.
    world.ask_and_answer(1, world.picture(1), "cat").await;
    for time in 0..20 {
        let padded = vec![world.picture(1), world.picture(1), world.picture(1)];
        let judged = world.put(whole(&world, padded)).await;
        let expected = match time {
            0..3 => ("forward", false),
            3..11 => ("forward", true),
            _ => ("refuse", true),
        };
        assert_eq!((judged[0].kind(), judged[0].evidence.suspect), expected, "{time}");
        assert!(!judged[1].evidence.suspect && !judged[2].evidence.suspect, "padding is innocent");
        assert_eq!(world.store.stats().anchors, 2, "one with an answer and one without");
        if judged[0].kind() == "forward" {
            settle_all(&world, judged, "batch").await;
        }
    }
}

#[tokio::test]
async fn near_copies_within_an_unsplittable_call_are_suspect_and_exact_ones_innocent() {
    let world = World::hardened();
    let padded = vec![world.picture(1), world.picture(1), world.picture(1)];
    let judged = world.put(whole(&world, padded)).await;
    assert!(judged.iter().all(|row| !row.evidence.suspect));
    assert_eq!(world.store.stats().anchors, 1, "padding makes no anchors");
    settle_all(&world, judged, "batch").await;
    let judged = world.put(whole(&world, vec![world.picture(2), world.near(2, 1)])).await;
    assert!(judged[1].evidence.suspect);
    let judged = world.put(whole(&world, vec![world.picture(1), world.picture(2)])).await;
    assert!(judged.iter().all(|row| !row.evidence.suspect), "a call sent again is innocent");
}

#[tokio::test]
async fn rows_of_an_unsplittable_call_are_recognised_but_never_replayed() {
    let world = World::hardened();
    let judged = world.put(whole(&world, vec![world.picture(1), world.picture(2)])).await;
    let pending = world.ask(1, world.near(1, 1)).await;
    assert_eq!((pending.kind(), pending.evidence.suspect), ("forward", true));
    settle_all(&world, judged, "batch").await;
    let judged = world.ask(1, world.near(2, 1)).await;
    assert_eq!((judged.kind(), judged.evidence.suspect), ("forward", true));
}

#[tokio::test]
async fn an_unsplittable_call_that_failed_is_forgotten() {
    let world = World::hardened();
    let judged = world.put(whole(&world, vec![world.picture(1), world.picture(2)])).await;
    drop(judged);
    assert_eq!(world.store.stats().anchors, 0);
    assert!(!world.ask(1, world.near(1, 1)).await.evidence.suspect);
}

fn paper(anchor: judgment::Anchor) -> World {
    World::new(Rules { anchor, ..Rules::paper() }, Limits::default())
}

#[tokio::test(start_paused = true)]
async fn the_papers_anchor_stays_until_it_is_replaced() {
    let world = paper(judgment::Anchor::Pinned);
    assert_eq!(world.ask_and_answer(1, world.picture(1), "one").await, "fresh one");
    tokio::time::advance(20 * HOUR).await;
    assert_eq!(world.ask_and_answer(1, world.near(1, 1), "").await, "one");
    assert_eq!(world.ask_and_answer(1, world.picture(2), "two").await, "fresh two");
    let back = world.ask(1, world.near(1, 2)).await;
    assert_eq!((back.kind(), back.evidence.suspect), ("forward", false), "a replaced anchor leaves no ghost");
    assert_eq!((world.store.stats().anchors, world.store.stats().ghosts), (1, 0));
}

/// Pictures that drift away from the first, two spots at a time: where the paper's text loses its anchor and a pinned
/// one does not follow.
async fn drift(world: &World) -> usize {
    world.ask_and_answer(1, world.picture(1), "cat").await;
    let mut replayed = 0;
    for step in 1..60 {
        let judged = world.ask(1, world.spotted(1, 0..step * 2)).await;
        if judged.kind() == "forward" {
            break;
        }
        replayed += 1;
    }
    replayed
}

#[tokio::test]
async fn a_sliding_anchor_takes_over_the_likeness_and_keeps_the_answer() {
    let pinned = paper(judgment::Anchor::Pinned);
    let sliding = paper(judgment::Anchor::Sliding);
    let (pinned, slid) = (drift(&pinned).await, drift(&sliding).await);
    assert!(pinned < 59, "{pinned}");
    assert_eq!(slid, 59, "small steps carry the label to any picture: why it is not the default");
}

//! Which replies wait, and which are answered by the model although its answer is not given: each mode of the time layer.
//!
//! How well each hides is measured by `tests/timing/`; here it is which path a call takes.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::Arc;

use refrain::protocol::pb;
use support::kserve::{question, stamps};
use support::pacing::Gate;
use support::pictures::{one_pixel, photo, photo_question};
use support::upstream::Step;
use support::{Client, Running, World};
use tonic::Code;

/// A sidecar that holds replies until the gate is opened, before a model server whose answers bear the number of the call.
async fn start(config: &str) -> (Gate, Running, Client) {
    let gate = Gate::new();
    let world = World::new().config(config).pacer(Arc::new(gate.clone())).start().await;
    world.upstream.answers_differently();
    let client = world.client().await;
    (gate, world, client)
}

fn near(seed: u64, at: usize) -> pb::ModelInferRequest {
    question([&one_pixel(&photo(seed), at)])
}

/// Forwards as many calls of one picture as make its stratum known: pictures 1 to 16 get the stamps 1 to 16.
async fn make_known(client: &Client) {
    for seed in 1..=ENOUGH {
        assert_eq!(client.infer(&photo_question(seed)).await.stamp(), seed as u32);
    }
}

/// Durations from which on a stratum is drawn from.
const ENOUGH: u64 = 16;

#[tokio::test]
async fn under_sample_a_replay_waits_and_a_forward_does_not() {
    let (gate, world, client) = start("timing.mode = 'sample'").await;
    make_known(&client).await;
    let replay = client.start_infer(&near(1, 1)).await;
    gate.until_held(1).await;
    assert_eq!(client.infer(&photo_question(17)).await.stamp(), 17);
    gate.release();
    assert_eq!((replay.reply().await.stamp(), world.upstream.asked()), (1, 17));
}

/// Who asks for a size that nobody asked before would tell by its time that a replay took another size's.
#[tokio::test]
async fn until_enough_calls_of_a_stratum_are_known_its_replays_take_the_models_own_time() {
    for mode in ["sample", "bucket"] {
        let (gate, world, client) = start(&format!("timing.mode = '{mode}'")).await;
        if mode == "bucket" {
            gate.release();
        }
        assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
        for at in 1..16 {
            assert_eq!(client.infer(&near(1, at)).await.stamp(), 1, "the anchor's answer");
        }
        assert_eq!((world.upstream.asked(), world.totals().shadows), (16, 15));
        let held = client.start_infer(&near(1, 99)).await;
        if mode == "sample" {
            gate.until_held(1).await;
        }
        // Two rows are another stratum, however much is known of one.
        let [a, b] = [1, 2].map(|at| one_pixel(&photo(1), 200 + at));
        assert_eq!(stamps(&client.infer(&question([&a, &b])).await.answer()), [1, 1]);
        assert_eq!((world.upstream.asked(), world.totals().shadows), (17, 16));
        gate.release();
        assert_eq!((held.reply().await.stamp(), world.upstream.asked()), (1, 17));
    }
}

#[tokio::test]
async fn what_makes_no_work_for_the_model_makes_no_stratum() {
    let (gate, world, client) = start("timing.mode = 'sample'").await;
    make_known(&client).await;
    gate.release();
    let text = |length| {
        let value = pb::infer_parameter::ParameterChoice::StringParam("x".repeat(length));
        pb::InferParameter { parameter_choice: Some(value) }
    };
    for power in 0..14 {
        let dressed = pb::ModelInferRequest {
            id: "x".repeat(1 << power),
            parameters: [("note".to_owned(), text(1 << power))].into(),
            ..near(1, power)
        };
        assert_eq!(client.infer(&dressed).await.stamp(), 1);
    }
    assert_eq!((world.upstream.asked(), world.totals().shadows), (16, 0));
}

#[tokio::test]
async fn an_error_of_a_shadow_is_not_told_and_the_replay_waits_all_the_same() {
    for step in [
        Step::Status(Code::Internal, "not this picture"),
        Step::Status(Code::InvalidArgument, "not this picture"),
        Step::Reset(h2::Reason::INTERNAL_ERROR),
    ] {
        let (gate, world, client) = start("timing.mode = 'sample'").await;
        assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
        world.upstream.then(step);
        let replay = client.start_infer(&near(1, 1)).await;
        gate.until_held(1).await;
        gate.release();
        assert_eq!((replay.reply().await.stamp(), world.upstream.asked()), (1, 2));
        assert_eq!(client.infer(&near(1, 2)).await.stamp(), 1);
        assert_eq!(world.totals().shadows, 2, "an error is no duration to draw from");
    }
}

/// What the model says of the whole batch may be said of the replayed row.
#[tokio::test]
async fn where_a_shadowed_batch_is_refused_its_new_rows_are_asked_for_alone() {
    let (gate, world, client) = start("timing.mode = 'sample'").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    let batch = |at, new| question([&one_pixel(&photo(1), at), &photo(new)]);
    assert_eq!(stamps(&client.infer(&batch(1, 2)).await.answer()), [1, 2]);
    assert_eq!(world.upstream.infers()[1].rows(), 2, "for the time that both take");

    world.upstream.then(Step::Status(Code::Internal, "not this picture"));
    let asked = client.start_infer(&batch(2, 3)).await;
    gate.until_held(1).await;
    gate.release();
    assert_eq!(stamps(&asked.reply().await.answer()), [1, 4]);
    assert_eq!(world.upstream.infers()[3].question().raw_input_contents[0], photo(3), "the new row alone");
    assert_eq!(client.infer(&near(3, 1)).await.stamp(), 4, "which is remembered");

    for _ in 0..2 {
        world.upstream.then(Step::Status(Code::Internal, "nor this one"));
    }
    let failed = client.infer(&batch(3, 4)).await;
    assert_eq!((failed.code(), failed.message()), (Some(Code::Internal), "nor this one".into()));
    assert!(failed.body.is_empty());
}

/// Otherwise a caller who sends a known picture beside each new one would set the time of his replays.
#[tokio::test]
async fn a_batch_of_which_the_model_saw_a_part_is_neither_drawn_from_nor_measured() {
    let (gate, world, client) =
        start("timing.mode = 'sample'\nlimits.shadows = 0\nstore.suspicions = 1000").await;
    gate.release();
    let anchor = photo(1);
    assert_eq!(client.infer(&question([&anchor])).await.stamp(), 1);
    for turn in 0..130 {
        assert!(client.infer(&question([&photo(1000 + turn), &photo(2000 + turn)])).await.is_ok());
        let part = [one_pixel(&anchor, turn as usize), photo(3000 + turn)];
        assert_eq!(stamps(&client.infer(&question(&part)).await.answer())[0], 1);
    }
    assert!(!world.metrics().contains("refrain_hiding_gap{"), "no replay of two rows was seen");
    for turn in 0..130 {
        let whole = [one_pixel(&anchor, turn), one_pixel(&anchor, 200 + turn)];
        assert_eq!(stamps(&client.infer(&question(&whole)).await.answer()), [1, 1]);
    }
    assert!(world.metrics().contains("refrain_hiding_gap{"), "{}", world.metrics());
}

#[tokio::test]
async fn under_bucket_every_reply_waits_for_the_grid_and_a_failed_one_too() {
    let (gate, world, client) = start("timing.mode = 'bucket'\nlimits.shadows = 0").await;
    let forward = client.start_infer(&photo_question(1)).await;
    gate.until_held(1).await;
    let replay = client.start_infer(&near(1, 1)).await;
    gate.until_held(2).await;
    world.upstream.then(Step::Status(Code::Internal, "broken"));
    let failed = client.start_infer(&photo_question(2)).await;
    gate.until_held(3).await;
    gate.release();
    assert_eq!((forward.reply().await.stamp(), replay.reply().await.stamp()), (1, 1));
    assert_eq!(failed.reply().await.code(), Some(Code::Internal));
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test]
async fn under_shadow_the_model_is_asked_and_its_answer_dropped() {
    let (gate, world, client) = start("timing.mode = 'shadow'").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    for at in 1..4 {
        assert_eq!(client.infer(&near(1, at)).await.stamp(), 1, "the anchor's answer");
        assert_eq!(world.upstream.asked(), 1 + at, "in the model's own time");
    }
    assert_eq!((gate.held(), world.totals().shadows, world.totals().held), (0, 3, 0));
    world.upstream.then(Step::Status(Code::Internal, "broken"));
    let failed = client.start_infer(&near(1, 9)).await;
    gate.until_held(1).await;
    gate.release();
    assert_eq!(
        failed.reply().await.stamp(),
        1,
        "how the model took this very picture is told by no error either"
    );
}

#[tokio::test]
async fn where_no_shadow_can_be_had_the_replay_waits_and_where_it_may_not_wait_it_is_refused() {
    let (gate, world, client) =
        start("timing.mode = 'shadow'\nlimits.shadows = 0\nlimits.held_per_caller = 1").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    let held = client.start_infer(&near(1, 1)).await;
    gate.until_held(1).await;
    assert_eq!(client.infer(&near(1, 2)).await.code(), Some(Code::ResourceExhausted));
    gate.release();
    assert_eq!((held.reply().await.stamp(), world.upstream.asked()), (1, 1));
}

#[tokio::test]
async fn a_model_has_a_mode_of_its_own() {
    let (gate, world, client) = start("timing.mode = 'sample'\n[models.clf]\ntiming = 'shadow'").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    assert_eq!(client.infer(&near(1, 1)).await.stamp(), 1);
    assert_eq!((gate.held(), world.upstream.asked()), (0, 2));
}

#[tokio::test]
async fn under_observe_nothing_waits_whatever_the_mode() {
    let (gate, _world, client) = start("mode = 'observe'\ntiming.mode = 'bucket'").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    assert_eq!(client.infer(&near(1, 1)).await.stamp(), 2);
    assert_eq!(gate.held(), 0);
}

//! Which replies wait, and which are answered by the model although its answer is not given: each mode of the time layer.
//!
//! How well each hides is measured by `tests/timing/`; here it is which path a call takes.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::Arc;

use refrain::protocol::pb;
use support::kserve::question;
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

#[tokio::test]
async fn under_sample_a_replay_waits_and_a_forward_does_not() {
    let (gate, world, client) = start("timing.mode = 'sample'").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    let replay = client.start_infer(&near(1, 1)).await;
    gate.until_held(1).await;
    assert_eq!(client.infer(&photo_question(2)).await.stamp(), 2);
    gate.release();
    assert_eq!((replay.reply().await.stamp(), world.upstream.asked()), (1, 2));
}

#[tokio::test]
async fn under_bucket_every_reply_waits_for_the_grid_and_a_failed_one_too() {
    let (gate, world, client) = start("timing.mode = 'bucket'").await;
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
    let failed = client.infer(&near(1, 9)).await;
    assert_eq!(failed.stamp(), 1, "how the model took this very picture is told by no error either");
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

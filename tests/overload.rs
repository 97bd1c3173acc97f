//! No overload, error or odd form ever gives a row that was ruled a replay the model's fresh answer.
//!
//! The model server answers differently each time: every score list begins with the number of the call that it was given to
//! (its stamp), so that an answer tells which call it comes from, and a fresh one cannot pass for a replay.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::sync::Arc;

use refrain::protocol::pb;
use support::client::Call;
use support::client::grpc;
use support::kserve::{self, MODEL_INFER, question, stamps};
use support::pacing::Gate;
use support::pictures::{one_pixel, photo, photo_question};
use support::upstream::Step;
use support::{Client, Running, World, until, within};
use tonic::Code;

async fn start(config: &str) -> (Running, Client) {
    let world = World::new().config(config).start().await;
    world.upstream.answers_differently();
    let client = world.client().await;
    (world, client)
}

/// A near-copy of the picture `seed`, another one for each `at`.
fn near(seed: u64, at: usize) -> pb::ModelInferRequest {
    question([&one_pixel(&photo(seed), at)])
}

/// One place to be held, taken by a call that waits for a leader's answer.
#[tokio::test]
async fn over_the_cap_of_held_calls_the_fresh_answer_is_dropped_for_the_replay() {
    let (world, client) = start("limits.held_per_caller = 1").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);

    world.upstream.hold();
    let leader = client.start_infer(&photo_question(2)).await;
    world.upstream.until_asked(MODEL_INFER, 2).await;
    let waiter = client.start_infer(&near(2, 9)).await;
    until("the waiter waits", || world.totals().replayed == 1).await;

    let shadow = client.start_infer(&near(1, 9)).await;
    world.upstream.until_asked(MODEL_INFER, 3).await;
    assert_eq!(world.totals().shadows, 1);
    world.upstream.release(1000);
    assert_eq!(shadow.reply().await.stamp(), 1, "the anchor's answer, not that of call 3");
    assert_eq!(leader.reply().await.stamp(), 2);
    assert_eq!(waiter.reply().await.stamp(), 2);
    assert_eq!(world.upstream.asked(), 3);
    assert_eq!(client.infer(&near(1, 10)).await.stamp(), 1, "the shadow left no anchor behind");
    assert_eq!(world.upstream.asked(), 3);
}

/// The same cap, filled by a call that the pacer holds.
#[tokio::test]
async fn a_call_held_by_the_pacer_fills_the_cap_too_and_frees_it_when_it_is_cancelled() {
    let gate = Gate::new();
    let config = "limits.held_per_caller = 1\ntiming.mode = 'mean'";
    let world = World::new().config(config).pacer(Arc::new(gate.clone())).start().await;
    world.upstream.answers_differently();
    let client = world.client().await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    let held = client.start_infer(&near(1, 1)).await;
    gate.until_held(1).await;
    assert_eq!(
        client.infer(&near(1, 2)).await.stamp(),
        1,
        "a shadow is not held: it takes the model's own time"
    );
    assert_eq!((world.upstream.asked(), world.totals().shadows), (2, 1));
    held.cancel();
    gate.until_held(0).await;
    let held = client.start_infer(&near(1, 3)).await;
    gate.until_held(1).await;
    gate.release();
    assert_eq!(held.reply().await.stamp(), 1);
    assert_eq!(world.upstream.asked(), 2, "its place was free again");
}

#[tokio::test]
async fn where_no_shadow_can_be_had_either_the_call_is_refused_without_an_answer() {
    for limits in ["limits.shadows = 0", "limits.shadows_per_caller = 0"] {
        let gate = Gate::new();
        let config = format!("limits.held_per_caller = 1\n{limits}");
        let world = World::new().config(&config).pacer(Arc::new(gate.clone())).start().await;
        world.upstream.answers_differently();
        let client = world.client().await;
        assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
        let held = client.start_infer(&near(1, 1)).await;
        gate.until_held(1).await;
        let refused = client.infer(&near(1, 2)).await;
        assert_eq!(refused.code(), Some(Code::ResourceExhausted), "{refused:?}");
        assert!(refused.body.is_empty());
        assert_eq!(world.upstream.asked(), 1);
        let new = client.infer(&photo_question(5)).await;
        assert_eq!(
            (new.code(), new.message()),
            (refused.code(), refused.message()),
            "which it was is not told"
        );
        assert_eq!(world.upstream.asked(), 1);
        gate.release();
        assert_eq!(held.reply().await.stamp(), 1);
    }
}

/// In all, not only of one caller: other callers' holds fill the cap as well.
#[tokio::test]
async fn the_cap_of_all_callers_is_kept_as_the_cap_of_one_is() {
    let gate = Gate::new();
    let config = "
        limits.held = 2
        limits.shadows = 0
        caller.metadata = 'x-user'
        caller.trusted_peers = ['127.0.0.0/8']
    ";
    let world = World::new().config(config).pacer(Arc::new(gate.clone())).start().await;
    world.upstream.answers_differently();
    let client = world.client().await;
    let ask = |user: &'static str, question: pb::ModelInferRequest| {
        client.ask(grpc(MODEL_INFER).header("x-user", user), kserve::frame(&question))
    };
    let mut held: Vec<Call> = Vec::new();
    for (number, user) in ["anne", "bert"].into_iter().enumerate() {
        assert!(ask(user, photo_question(1)).await.reply().await.is_ok());
        held.push(ask(user, near(1, 1)).await);
        gate.until_held(number + 1).await;
    }
    assert_eq!(ask("cleo", photo_question(1)).await.reply().await.stamp(), 3);
    let refused = ask("cleo", near(1, 1)).await.reply().await;
    assert_eq!(refused.code(), Some(Code::ResourceExhausted));
    gate.release();
    for (number, held) in held.into_iter().enumerate() {
        assert_eq!(held.reply().await.stamp(), number as u32 + 1, "each caller has its own anchor");
    }
}

#[tokio::test]
async fn of_20_waiters_of_a_cancelled_leader_one_is_promoted_and_all_get_its_answer() {
    let (world, client) = start("limits.linger = '0s'").await;
    world.upstream.hold();
    let leader = client.start_infer(&photo_question(1)).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    let mut waiters = Vec::new();
    for at in 0..20 {
        waiters.push(client.start_infer(&near(1, at)).await);
    }
    until("all wait", || world.totals().replayed == 20).await;
    leader.cancel();
    world.upstream.until_asked(MODEL_INFER, 2).await;
    world.upstream.release(1000);
    for waiter in waiters {
        assert_eq!(waiter.reply().await.stamp(), 2);
    }
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test]
async fn a_waiter_of_a_leader_that_lingers_gets_the_leaders_answer() {
    let (world, client) = start("limits.linger = '20s'").await;
    world.upstream.hold();
    let leader = client.start_infer(&photo_question(1)).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    let waiter = client.start_infer(&near(1, 1)).await;
    until("it waits", || world.totals().replayed == 1).await;
    leader.cancel();
    world.upstream.release(1000);
    assert_eq!(waiter.reply().await.stamp(), 1);
    assert_eq!(world.upstream.asked(), 1);
}

#[tokio::test]
async fn when_a_leader_fails_one_waiter_is_promoted_and_the_others_wait_for_it() {
    let (world, client) = start("").await;
    world.upstream.hold();
    world.upstream.then(Step::Status(Code::Internal, "no memory"));
    let leader = client.start_infer(&photo_question(1)).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    let mut waiters = Vec::new();
    for at in 0..5 {
        waiters.push(client.start_infer(&near(1, at)).await);
    }
    until("all wait", || world.totals().replayed == 5).await;
    world.upstream.release(1000);
    let failed = leader.reply().await;
    assert_eq!((failed.code(), failed.message()), (Some(Code::Internal), "no memory".into()));
    for waiter in waiters {
        assert_eq!(waiter.reply().await.stamp(), 2);
    }
    assert_eq!(world.upstream.asked(), 2);
}

#[tokio::test]
async fn errors_are_never_remembered() {
    let (world, client) = start("").await;
    for step in
        [Step::Status(Code::Unavailable, "loading"), Step::Reset(h2::Reason::INTERNAL_ERROR), Step::Cut]
    {
        world.upstream.then(step);
        assert_eq!(client.infer(&photo_question(1)).await.code(), Some(Code::Unavailable));
    }
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 4);
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 4);
    assert_eq!(world.upstream.asked(), 4);
}

/// The first has rows 1 and 2, the second their near-copies the other way round, each with a row of its own: both claim a row
/// and both need the other's.
#[tokio::test]
async fn two_batches_that_wait_for_each_others_rows_both_end() {
    let (world, client) = start("").await;
    world.upstream.hold();
    let [a, b, c] = [1, 2, 3].map(photo);
    let first = client.start_infer(&question([&a])).await;
    world.upstream.until_asked(MODEL_INFER, 1).await;
    // Leads `b`, follows the first call's `a`.
    let second = client.start_infer(&question([&one_pixel(&a, 1), &b])).await;
    world.upstream.until_asked(MODEL_INFER, 2).await;
    // Leads `c`, follows the second call's `b` and the first's `a`.
    let third = client.start_infer(&question([&c, &one_pixel(&b, 1), &one_pixel(&a, 2)])).await;
    world.upstream.until_asked(MODEL_INFER, 3).await;
    // Follows rows of both, in the other order.
    let fourth = client.start_infer(&question([&one_pixel(&c, 3), &one_pixel(&b, 3)])).await;
    until("all are judged", || world.totals().replayed == 5).await;
    world.upstream.release(1000);
    assert_eq!(first.reply().await.stamp(), 1);
    assert_eq!(stamps(&second.reply().await.answer()), [1, 2]);
    assert_eq!(stamps(&third.reply().await.answer()), [3, 2, 1]);
    assert_eq!(stamps(&fourth.reply().await.answer()), [3, 2]);
    assert_eq!(
        world.upstream.infers().iter().map(support::upstream::Seen::rows).collect::<Vec<_>>(),
        [1, 1, 1]
    );
}

/// Many of them at once, in every order, some cancelled on the way.
#[tokio::test]
async fn batches_that_cross_each_other_in_every_order_all_end() {
    let (world, client) = start("limits.linger = '0s'").await;
    let pictures: Vec<_> = (0..6).map(photo).collect();
    world.upstream.hold();
    let mut calls = Vec::new();
    for turn in 0..36 {
        let copies: Vec<_> =
            (0..6).map(|row| one_pixel(&pictures[(turn * (turn % 5 + 1) + row * 5) % 6], turn)).collect();
        let call = client.start_infer(&question(&copies[turn % 4..])).await;
        if turn % 7 == 3 { call.cancel() } else { calls.push(call) }
    }
    until("calls are judged", || world.totals().replayed >= 30).await;
    world.upstream.release(1 << 20);
    for call in calls {
        assert!(call.reply().await.is_ok());
    }
}

#[tokio::test]
async fn a_copy_inside_one_batch_takes_the_answer_of_its_own_leader() {
    let (world, client) = start("").await;
    let [a, b] = [1, 2].map(photo);
    let reply = client.infer(&question([&a, &one_pixel(&a, 5), &b, &a])).await;
    assert_eq!(stamps(&reply.answer()), [1, 1, 1, 1]);
    assert_eq!(world.upstream.infers()[0].rows(), 2);
    let scores = kserve::scores(&reply.answer());
    assert_eq!(scores[0], scores[1]);
    assert_eq!(scores[0], scores[3]);
    assert_ne!(scores[0], scores[2]);
}

/// What a request may be wrong in, on a picture that would be forwarded and on one that would be replayed: the upstream's own
/// error both times.
#[tokio::test]
async fn a_form_that_the_upstream_refuses_is_refused_on_a_replay_too() {
    type Spoil = fn(&mut pb::ModelInferRequest);
    let table: [(&str, Spoil, Code); 6] = [
        ("dtype", |request| request.inputs[0].datatype = "INT8".into(), Code::InvalidArgument),
        (
            "output",
            |request| {
                let name = "no such output".into();
                request
                    .outputs
                    .push(pb::model_infer_request::InferRequestedOutputTensor { name, ..Default::default() });
            },
            Code::InvalidArgument,
        ),
        ("version", |request| request.model_version = "7".into(), Code::NotFound),
        ("model", |request| request.model_name = "nobody".into(), Code::NotFound),
        ("shape", |request| request.inputs[0].shape = vec![1, 3, 32, 32], Code::InvalidArgument),
        ("rank", |request| request.inputs[0].shape = vec![32, 32, 3], Code::InvalidArgument),
    ];
    // Of another version the near-copy is suspect: it must be forwarded to be told so.
    let (_world, client) = start("store.suspicions = 8").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    for (what, spoil, code) in table {
        let mut seen = Vec::new();
        for seed in [1, 2] {
            let mut request = if seed == 1 { near(1, 3) } else { photo_question(seed + 100) };
            spoil(&mut request);
            let reply = client.infer(&request).await;
            assert_eq!(reply.code(), Some(code), "{what}, seed {seed}: {reply:?}");
            assert!(reply.body.is_empty(), "{what}: no answer of any kind");
            seen.push((reply.headers, reply.trailers));
        }
        assert_eq!(seen[0], seen[1], "{what}: a picture that would be replayed is told by its error");
    }
    let mut rows = vec![one_pixel(&photo(1), 1); 17];
    let replayed = client.infer(&question(&rows)).await;
    rows = (200..217).map(photo).collect();
    let forwarded = client.infer(&question(&rows)).await;
    assert_eq!(replayed.code(), Some(Code::InvalidArgument), "{replayed:?}");
    assert_eq!((replayed.headers, replayed.trailers), (forwarded.headers, forwarded.trailers));
    assert_eq!(client.infer(&near(1, 4)).await.stamp(), 1, "the anchor is what it was");
}

/// A parameter that the server acts on makes the form one that is not known to be accepted: the upstream is asked, and the
/// replay is given all the same.
#[tokio::test]
async fn a_form_that_is_not_known_is_tried_at_the_upstream_and_its_fresh_answer_dropped() {
    let (world, client) = start("").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    let odd = |at| {
        let value = pb::InferParameter {
            parameter_choice: Some(pb::infer_parameter::ParameterChoice::BoolParam(true)),
        };
        let key = "sequence_end".to_owned();
        pb::ModelInferRequest { parameters: [(key, value)].into(), ..near(1, at) }
    };
    assert_eq!(client.infer(&odd(1)).await.stamp(), 1);
    assert_eq!((world.upstream.asked(), world.totals().shadows), (2, 1));
    assert_eq!(client.infer(&odd(2)).await.stamp(), 1, "tried once, known from then on");
    assert_eq!(world.upstream.asked(), 2);
    // And where it is refused, so is the replay.
    world.upstream.then(Step::Status(Code::InvalidArgument, "no such parameter"));
    let mut other = odd(3);
    other.parameters.insert("sequence_start".into(), other.parameters.values().next().unwrap().clone());
    let reply = client.infer(&other).await;
    assert_eq!((reply.code(), reply.message()), (Some(Code::InvalidArgument), "no such parameter".into()));
}

/// A shadow whose reply is OK but cannot be taken apart into rows: nothing of it may come through.
#[tokio::test]
async fn a_reply_that_cannot_be_taken_apart_never_stands_in_for_a_replay() {
    let odd_shape = |request: &pb::ModelInferRequest| {
        let mut answer = kserve::answer(request, Some(99));
        let elements = answer.outputs[0].shape.iter().product();
        answer.outputs[0].shape = vec![elements];
        answer
    };
    let [a, b] = [1, 2].map(photo);
    // Of a whole batch that is asked for as a shadow, and of the rows that are forwarded beside a replay.
    for shadow in [true, false] {
        let gate = Gate::new();
        let config = "limits.held_per_caller = 1";
        let world = World::new().config(config).pacer(Arc::new(gate.clone())).start().await;
        world.upstream.answers_differently();
        let client = world.client().await;
        assert_eq!(client.infer(&question([&a])).await.stamp(), 1);
        let held = if shadow {
            let held = client.start_infer(&question([&one_pixel(&a, 1)])).await;
            gate.until_held(1).await;
            Some(held)
        } else {
            gate.release();
            None
        };
        let batch = question([&one_pixel(&a, 2), &b, &photo(3)]);
        world.upstream.then(Step::Other(odd_shape(&batch)));
        let failed = client.start_infer(&batch).await;
        if shadow {
            // It leaves when a reply would have left.
            gate.until_held(2).await;
            gate.release();
        }
        let reply = failed.reply().await;
        assert_eq!(reply.code(), Some(Code::Internal), "shadow {shadow}: {reply:?}");
        assert!(reply.body.is_empty());
        if let Some(held) = held {
            assert_eq!(held.reply().await.stamp(), 1);
        }
    }
}

/// A held call whose caller's time is up ends as it does upstream, and frees its place.
#[tokio::test]
async fn a_held_call_whose_deadline_passes_ends_by_the_deadline() {
    let gate = Gate::new();
    let world = World::new().config("limits.held_per_caller = 1").pacer(Arc::new(gate.clone())).start().await;
    world.upstream.answers_differently();
    let client = world.client().await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    let hurried = grpc(MODEL_INFER).header("grpc-timeout", "100m");
    let reply = client.unary(hurried, kserve::frame(&near(1, 1))).await;
    assert_eq!(reply.code(), Some(Code::DeadlineExceeded), "{reply:?}");
    assert!(reply.body.is_empty());
    gate.until_held(0).await;
    let held = client.start_infer(&near(1, 2)).await;
    gate.until_held(1).await;
    gate.release();
    assert_eq!(held.reply().await.stamp(), 1);
    assert_eq!(world.upstream.asked(), 1);
}

/// Through the wire: 2,000 callers that were never seen before, while one that is established asks on.
#[tokio::test]
async fn a_flood_of_callers_does_not_take_an_established_callers_answers() {
    let config = "
        caller.metadata = 'x-user'
        caller.trusted_peers = ['127.0.0.0/8']
        store.sessions = 100
        store.established_forwards = 2
        store.established_after = '0s'
    ";
    let (world, client) = start(config).await;
    let ask = async |user: String, question: &pb::ModelInferRequest| {
        let request = grpc(MODEL_INFER).header("x-user", user);
        client.unary(request, kserve::frame(question)).await.stamp()
    };
    let mut own = Vec::new();
    for seed in 1..=4 {
        own.push(ask("anne".into(), &photo_question(seed)).await);
    }
    let picture = photo_question(50);
    for stranger in 0..2000 {
        ask(format!("stranger {stranger}"), &picture).await;
        if stranger % 100 == 0 {
            assert_eq!(ask("anne".into(), &near(1, stranger % 1000)).await, own[0]);
        }
    }
    for seed in 1..=4 {
        assert_eq!(ask("anne".into(), &near(seed, 1)).await, own[seed as usize - 1]);
    }
    assert!(world.stats().sessions <= 100);
    assert_eq!(world.upstream.asked(), 4 + 2000);
}

/// Else whoever asks while the model server is away learns which of his pictures it would have been asked about.
#[tokio::test]
async fn while_the_model_server_is_away_a_replay_fails_as_a_new_picture_does() {
    let (world, client) = start("").await;
    assert_eq!(client.infer(&photo_question(1)).await.stamp(), 1);
    assert_eq!(client.infer(&near(1, 1)).await.stamp(), 1);
    world.upstream.vanish();
    let away = "failed to connect to the model server";
    within("new pictures are refused", async {
        while client.infer(&photo_question(2)).await.message() != away {}
    })
    .await;
    for question in [near(1, 2), photo_question(1), photo_question(3)] {
        let failed = client.infer(&question).await;
        assert_eq!((failed.code(), failed.message()), (Some(Code::Unavailable), away.into()));
    }
}

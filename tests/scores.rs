//! What the scores of a reply tell: each way of writing them, on both paths.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use support::client::grpc;
use support::kserve::{self, question, scores};
use support::pictures::{Picture, one_pixel, photo};
use support::tensorflow::{self, PREDICT};
use support::{Client, Running, World};

/// Each way that changes scores: whether it tells a near-copy from the picture, and whether forwarded scores stay the model's.
const MODES: [(&str, bool, bool); 4] =
    [("rounded", false, false), ("jittered", true, false), ("label", false, false), ("decoy", true, true)];

async fn start(mode: &str) -> (Running, Client) {
    let world = World::new().config(&format!("scores = '{mode}'")).start().await;
    let client = world.client().await;
    (world, client)
}

async fn asked(client: &Client, picture: &Picture) -> Vec<f32> {
    scores(&client.infer(&question([picture])).await.answer()).remove(0)
}

fn best(scores: &[f32]) -> usize {
    (0..scores.len()).reduce(|best, class| if scores[class] > scores[best] { class } else { best }).unwrap()
}

#[tokio::test]
async fn every_way_keeps_the_best_class_and_repeats_itself_for_the_same_picture() {
    let (_world, client) = start("exact").await;
    let (picture, near) = (photo(1), one_pixel(&photo(1), 3));
    let model = asked(&client, &picture).await;
    assert_eq!(asked(&client, &near).await, model, "exact: a near-copy has the very same scores");
    for (mode, tells_pictures_apart, is_the_models) in MODES {
        let (world, client) = start(mode).await;
        let forwarded = asked(&client, &picture).await;
        let replayed = asked(&client, &near).await;
        assert_eq!(world.upstream.asked(), 1, "{mode}");
        assert_eq!((best(&forwarded), best(&replayed)), (best(&model), best(&model)), "{mode}");
        assert_eq!(forwarded == model, is_the_models, "{mode}: only a decoy leaves forwards alone");
        assert_eq!(replayed != forwarded, tells_pictures_apart, "{mode}");
        assert_eq!(asked(&client, &picture).await, forwarded, "{mode}: an exact repeat");
        assert_eq!(asked(&client, &near).await, replayed, "{mode}: the same near-copy again");
    }
}

#[tokio::test]
async fn every_way_writes_the_replies_of_tensorflow_serving_too() {
    async fn asked(client: &Client, picture: &Picture) -> Vec<f32> {
        let reply = client.unary(grpc(PREDICT), kserve::frame(&tensorflow::question([picture]))).await;
        assert!(reply.is_ok(), "{reply:?}");
        tensorflow::scores(&reply.body).remove(0)
    }
    let (picture, near) = (photo(1), one_pixel(&photo(1), 3));
    let model = scores(&kserve::answer(&question([&picture]), None)).remove(0);
    for (mode, tells_pictures_apart, is_the_models) in [("exact", false, true)].into_iter().chain(MODES) {
        let (world, client) = start(mode).await;
        tensorflow::serve(&world.upstream);
        let forwarded = asked(&client, &picture).await;
        let replayed = asked(&client, &near).await;
        assert_eq!(world.upstream.seen(PREDICT).len(), 1, "{mode}");
        assert_eq!((best(&forwarded), best(&replayed)), (best(&model), best(&model)), "{mode}");
        assert_eq!(forwarded == model, is_the_models, "{mode}");
        assert_eq!(replayed != forwarded, tells_pictures_apart, "{mode}");
        assert_eq!(asked(&client, &picture).await, forwarded, "{mode}: an exact repeat");
        assert_eq!(asked(&client, &near).await, replayed, "{mode}: the same near-copy again");
    }
}

#[tokio::test]
async fn a_batch_is_written_row_by_row() {
    let (_world, client) = start("jittered").await;
    let pictures = [photo(1), photo(2), one_pixel(&photo(1), 3)];
    let mut alone = Vec::new();
    for picture in &pictures {
        alone.push(asked(&client, picture).await);
    }
    let reply = client.infer(&question(&pictures)).await;
    assert_eq!(scores(&reply.answer()), alone);
}

#[tokio::test]
async fn who_only_observes_changes_nothing() {
    let (_world, plain) = start("exact").await;
    let world = World::new().config("scores = 'label'\nmode = 'observe'").start().await;
    let observed = world.client().await;
    assert_eq!(asked(&observed, &photo(1)).await, asked(&plain, &photo(1)).await);
}

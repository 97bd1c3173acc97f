//! What nobody is told, and that no caller sees a difference.

use http::HeaderMap;
use tonic::Code;

use crate::support;
use crate::support::World;
use crate::support::client::grpc;
use crate::support::collector::{Collector, Manner};
use crate::support::kserve::{self, MODEL_INFER, question};
use crate::support::pictures::{one_pixel, photo, photo_question};
use crate::support::upstream::Step;
use crate::{STREAM, get, has_streams, traced};

/// Header by header, trailer by trailer, byte by byte.
#[tokio::test]
async fn callers_get_the_same_with_telemetry_and_without() {
    let mut outcomes = Vec::new();
    for telemetry in [true, false] {
        let collector = Collector::start(Manner::Takes).await;
        let settings = if telemetry {
            format!(
                "{}\nadmin.listen = '127.0.0.1:0'\ntelemetry.trust_context = 'always'",
                collector.settings()
            )
        } else {
            String::new()
        };
        let world = World::new().config(&settings).start().await;
        has_streams(&world);
        let client = world.client().await;
        let mut replies = Vec::new();
        let near = one_pixel(&photo(1), 3);
        let questions = [
            question([&photo(1)]),
            question([&near]),
            question([&photo(1), &photo(2)]),
            {
                let mut other = photo_question(3);
                other.model_name = "unknown".into();
                other
            },
            {
                let mut other = photo_question(3);
                other.inputs[0].datatype = "FP32".into();
                other
            },
        ];
        for question in &questions {
            let request = grpc(MODEL_INFER)
                .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
                .header("baggage", "a=b");
            replies.push(client.unary(request, kserve::frame(question)).await);
        }
        world.upstream.then(Step::Status(Code::Unavailable, "later"));
        replies.push(client.infer(&photo_question(9)).await);
        replies.push(
            client.unary(grpc("/inference.GRPCInferenceService/ModelStatistics"), kserve::wrap(b"")).await,
        );
        replies.push(client.unary(grpc("/nobody/Knows"), kserve::wrap(b"")).await);
        let mut stream = client.open(grpc(STREAM)).await;
        for question in &questions[..2] {
            stream.data(kserve::frame(question), false);
        }
        stream.data(bytes::Bytes::new(), true);
        replies.push(stream.reply().await);
        outcomes.push(replies.into_iter().map(seen_by_the_caller).collect::<Vec<_>>());
        world.stop().await;
    }
    assert_eq!(outcomes[0], outcomes[1]);
}

fn seen_by_the_caller(
    reply: support::client::Reply,
) -> (http::StatusCode, HeaderMap, bytes::Bytes, Option<HeaderMap>) {
    (reply.http, reply.headers, reply.body, reply.trailers)
}

#[tokio::test]
async fn nothing_of_a_picture_an_answer_or_an_identity_is_told() {
    let (collector, world) = traced(
        "caller.metadata = 'x-user'\ncaller.trusted_peers = ['127.0.0.0/8']\nadmin.listen = '127.0.0.1:0'",
    )
    .await;
    let client = world.client().await;
    let near = one_pixel(&photo(1), 3);
    for picture in [&photo(1), &near] {
        let request =
            grpc(MODEL_INFER).header("x-user", "alice@example.com").header("authorization", "Bearer s3cret");
        assert!(client.unary(request, kserve::frame(&question([picture]))).await.is_ok());
    }
    let admin = world.admin.clone().unwrap();
    let pages = [get(&admin, "/metrics").await, get(&admin, "/sessions").await, get(&admin, "/config").await];
    assert!(pages[1].contains("\"anchors\": 1") && pages[1].contains("\"verified\": true"), "{}", pages[1]);
    world.stop().await;
    let told = collector.look(|taken| String::from_utf8_lossy(&taken.raw).into_owned());
    assert!(!told.is_empty());
    for text in pages.iter().chain([&told]) {
        for secret in ["alice", "s3cret", "127.0.0.2", "probabilities"] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
    let pixels = &photo(1)[..24];
    assert!(!collector.look(|taken| taken.raw.windows(24).any(|window| window == pixels)));
}

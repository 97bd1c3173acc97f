//! Health is answered by us, in the model server's name: serving when we and the upstream are.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use prost::Message;
use support::client::grpc;
use support::kserve::frame;
use support::pictures::photo_question;
use support::{Client, Fake, World, until, within};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

fn ask(service: &str) -> bytes::Bytes {
    frame(&HealthCheckRequest { service: service.into() })
}

async fn check(client: &Client, service: &str) -> Result<ServingStatus, Code> {
    let reply = client.unary(grpc(CHECK), ask(service)).await;
    match reply.code().expect("a status") {
        Code::Ok => Ok(HealthCheckResponse::decode(reply.body.slice(5..)).unwrap().status()),
        code => Err(code),
    }
}

/// The statuses that a `Watch` tells, one after the other.
struct Watched {
    _send: h2::SendStream<bytes::Bytes>,
    body: h2::RecvStream,
}

impl Watched {
    async fn start(client: &Client) -> Self {
        let call = client.ask(grpc(WATCH), ask("")).await;
        let body = within("headers", call.response).await.unwrap().into_body();
        Self { _send: call.send, body }
    }

    async fn until(&mut self, wanted: ServingStatus) {
        within("the status is told", async {
            loop {
                let told = self.body.data().await.expect("a Watch does not end").unwrap();
                self.body.flow_control().release_capacity(told.len()).unwrap();
                if HealthCheckResponse::decode(&told[5..]).unwrap().status() == wanted {
                    return;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn health_follows_the_upstream_and_watchers_are_told() {
    let world = World::new().start_before(Fake::absent().await).await;
    let client = world.client().await;
    let mut watched = Watched::start(&client).await;
    watched.until(ServingStatus::NotServing).await;
    assert_eq!(check(&client, "").await, Ok(ServingStatus::NotServing));

    world.upstream.appear().await;
    watched.until(ServingStatus::Serving).await;
    for service in ["", "inference.GRPCInferenceService"] {
        assert_eq!(check(&client, service).await, Ok(ServingStatus::Serving), "{service:?}");
    }
    assert_eq!(check(&client, "another.Service").await, Err(Code::NotFound));

    world.upstream.set_ready(false);
    watched.until(ServingStatus::NotServing).await;
    world.upstream.set_ready(true);
    watched.until(ServingStatus::Serving).await;
}

#[tokio::test]
async fn the_upstream_never_sees_a_question_about_our_health() {
    let world = World::new().start().await;
    let client = world.client().await;
    check(&client, "").await.unwrap();
    assert!(world.upstream.seen(CHECK).is_empty());
}

#[tokio::test]
async fn a_sidecar_that_drains_says_so_to_those_who_watch() {
    let world = World::new().config("limits.drain = '1s'").start().await;
    let client = world.client().await;
    let mut watched = Watched::start(&client).await;
    watched.until(ServingStatus::Serving).await;
    world.tell_to_stop();
    watched.until(ServingStatus::NotServing).await;
    assert!(!world.stop().await, "the Watch is cut at the end of limits.drain");
}

#[tokio::test]
async fn an_upstream_that_is_down_at_the_start_is_served_once_it_is_up() {
    let world = World::new().start_before(Fake::absent().await).await;
    let client = world.client().await;
    for question in [photo_question(1), photo_question(1)] {
        let reply = client.infer(&question).await;
        assert_eq!(reply.code(), Some(Code::Unavailable), "{reply:?}");
    }
    world.upstream.appear().await;
    let mut answered = false;
    within("it recovers", async {
        while !answered {
            let reply = client.infer(&photo_question(1)).await;
            answered = reply.is_ok();
            assert!(answered || reply.code() == Some(Code::Unavailable), "{reply:?}");
        }
    })
    .await;
    assert_eq!(world.upstream.asked(), 1, "nothing was remembered of the calls that failed");
    until("rows are counted", || world.totals().judged_forward == 1).await;
}

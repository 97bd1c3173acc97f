//! The operator sees everything, the caller nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    HistogramDataPoint, Metric, NumberDataPoint, number_data_point,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use refrain::protocol::pb;
use refrain::telemetry::{Head, Settings, Telemetry, TrustContext};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use support::client::grpc;
use support::collector::{Collector, Manner, attribute, names};
use support::kserve::{self, MODEL_CONFIG, MODEL_INFER, MODEL_METADATA, question};
use support::pictures::{one_pixel, photo, photo_question};
use support::upstream::{Step, ok_trailers};
use support::{Running, World, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Code;

const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// Kinds of spans, as the wire numbers them.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// A status that nobody set, as the wire numbers it, and an error.
const UNSET: i32 = 0;
const ERROR: i32 = 2;

async fn traced(settings: &str) -> (Collector, Running) {
    let collector = Collector::start(Manner::Takes).await;
    let world = World::new().config(&collector.settings()).config(settings).start().await;
    (collector, world)
}

/// Stops the sidecar, which exports what is left, and gives the spans, by call: the server's first, then its parts by start.
async fn calls_of(collector: &Collector, world: Running) -> Vec<Vec<Span>> {
    world.stop().await;
    let spans = collector.spans();
    let servers = spans.iter().filter(|span| span.kind == SERVER);
    servers
        .map(|server| {
            let parts = spans.iter().filter(|span| span.parent_span_id == server.span_id);
            std::iter::once(server.clone()).chain(parts.cloned()).collect()
        })
        .collect()
}

/// The fake model server has the streaming call: messages of ordinary models never get there.
fn has_streams(world: &Running) {
    world.upstream.on(STREAM, |mut exchange| async move {
        let mut sending = exchange.respond.send_response(http::Response::new(()), false).unwrap();
        sending.send_trailers(ok_trailers()).unwrap();
    });
}

fn status(span: &Span) -> i32 {
    span.status.as_ref().map_or(UNSET, |status| status.code)
}

fn said(span: &Span, name: &str) -> String {
    attribute(&span.attributes, name).unwrap_or_else(|| panic!("{name} in {:?}", names(&span.attributes)))
}

#[tokio::test]
async fn a_forwarded_and_a_short_circuited_call_are_told_whole() {
    let (collector, world) = traced("timing.mode = 'mean'").await;
    let client = world.client().await;
    assert!(client.infer(&photo_question(1)).await.is_ok());
    let again = question([&one_pixel(&photo(1), 7)]);
    assert!(client.infer(&again).await.is_ok());
    let seen = world.upstream.last(MODEL_INFER);

    let calls = calls_of(&collector, world).await;
    let [forwarded, replayed] = &calls[..] else { panic!("two calls: {calls:?}") };
    let tree = |call: &[Span]| -> Vec<(String, i32, i32)> {
        call.iter().map(|span| (span.name.clone(), span.kind, status(span))).collect()
    };
    let method = "inference.GRPCInferenceService/ModelInfer".to_owned();
    let part = |name: &str| (name.to_owned(), INTERNAL, UNSET);
    let call = |kind| (method.clone(), kind, UNSET);
    assert_eq!(tree(forwarded), [call(SERVER), part("read"), part("judge"), call(CLIENT), part("settle")]);
    assert_eq!(tree(replayed)[..3], [call(SERVER), part("read"), part("judge")]);
    assert!(
        replayed[3..].iter().all(|span| span.name == "hold"),
        "no call to the model server: {:?}",
        tree(replayed)
    );

    let common: BTreeMap<&str, &str> = BTreeMap::from([
        ("rpc.system.name", "grpc"),
        ("rpc.method", &*method),
        ("rpc.status_code", "OK"),
        ("server.address", "models.example"),
        ("server.port", "8001"),
        ("refrain.model.name", "clf"),
        ("refrain.model.version", "1"),
        ("refrain.hash.algorithm", "hardened"),
        ("refrain.batch.size", "1"),
        ("refrain.batch.rejected", "0"),
        ("refrain.suspect", "false"),
        ("refrain.session.key_source", "address"),
    ]);
    for span in [&forwarded[0], &replayed[0]] {
        for (name, value) in &common {
            assert_eq!(said(span, name), *value, "{name}");
        }
        assert!(span.parent_span_id.is_empty() && span.trace_id.len() == 16);
        assert_eq!(said(span, "refrain.session.id_hash").len(), 16);
    }
    assert_eq!(said(&forwarded[0], "refrain.decision"), "forwarded");
    assert_eq!(said(&forwarded[0], "refrain.decision.reason"), "new");
    assert_eq!(said(&forwarded[0], "refrain.batch.forwarded"), "1");
    assert!(forwarded[0].links.is_empty());
    assert_eq!(said(&replayed[0], "refrain.decision"), "short_circuited");
    assert_eq!(said(&replayed[0], "refrain.batch.short_circuited"), "1");
    assert_eq!(said(&replayed[0], "refrain.match.count"), "1");
    assert!(said(&replayed[0], "refrain.match.age").parse::<f64>().unwrap() >= 0.0);
    assert_eq!(said(&replayed[0], "refrain.hash.threshold"), "10");
    assert_eq!(said(&replayed[0], "refrain.pixel.distance"), "1");
    for name in
        ["refrain.hash.distance", "refrain.cells.near", "refrain.delay.added", "refrain.upstream.saved_time"]
    {
        assert!(said(&replayed[0], name).parse::<f64>().unwrap() >= 0.0, "{name}");
    }
    assert_eq!(attribute(&replayed[0].attributes, "error.type"), None);

    let [link] = &replayed[0].links[..] else { panic!("one link: {:?}", replayed[0].links) };
    assert_eq!(link.trace_id, forwarded[0].trace_id, "answered from this earlier call");
    assert_eq!(link.span_id, forwarded[0].span_id);
    assert_ne!(replayed[0].trace_id, forwarded[0].trace_id);

    // The model server was told of the call that asked it.
    let client_span = &forwarded[3];
    let parent = seen.headers["traceparent"].to_str().unwrap();
    let (trace, span) = (&client_span.trace_id, &client_span.span_id);
    let expected = format!("00-{}-{}-01", hexadecimal(trace), hexadecimal(span));
    assert_eq!(parent, expected);
    assert_eq!(said(client_span, "rpc.status_code"), "OK");
    assert_eq!(said(client_span, "server.address"), "127.0.0.1");

    collector.look(|taken| {
        let resource = taken.resource.as_ref().unwrap();
        assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("refrain"));
        let [record] = &taken.logs[..] else { panic!("one log record: {:?}", taken.logs) };
        assert_eq!((&record.trace_id, &record.span_id), (&replayed[0].trace_id, &replayed[0].span_id));
        assert_eq!(attribute(&record.attributes, "refrain.decision").as_deref(), Some("short_circuited"));
        assert_eq!(record.event_name, "refrain.short_circuit");
    });
}

#[tokio::test]
async fn an_error_of_the_model_server_is_the_clients_error_and_only_some_are_the_servers() {
    let (collector, world) = traced("").await;
    let client = world.client().await;
    world.upstream.then(Step::Status(Code::InvalidArgument, "no"));
    assert_eq!(client.infer(&photo_question(1)).await.code(), Some(Code::InvalidArgument));
    world.upstream.then(Step::Status(Code::Internal, "broken"));
    assert_eq!(client.infer(&photo_question(2)).await.code(), Some(Code::Internal));
    let calls = calls_of(&collector, world).await;
    for (call, code, of_server) in [(&calls[0], "INVALID_ARGUMENT", UNSET), (&calls[1], "INTERNAL", ERROR)] {
        assert_eq!((said(&call[0], "rpc.status_code").as_str(), status(&call[0])), (code, of_server));
        let client = call.iter().find(|span| span.kind == CLIENT).unwrap();
        assert_eq!((said(client, "error.type").as_str(), status(client)), (code, ERROR));
    }
}

#[tokio::test]
async fn trace_context_is_believed_by_policy_and_what_is_not_goes_no_further() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trusted = "telemetry.trust_context = 'trusted_peers'\ncaller.trusted_peers = ['127.0.0.0/8']";
    for (settings, believed) in [
        ("telemetry.trust_context = 'always'", true),
        (trusted, true),
        ("", false),
        ("telemetry.trust_context = 'never'\ncaller.trusted_peers = ['127.0.0.0/8']", false),
    ] {
        let (collector, world) = traced(settings).await;
        let client = world.client().await;
        let request = grpc(MODEL_INFER)
            .header("traceparent", PARENT)
            .header("tracestate", "vendor=1")
            .header("baggage", "tenant=evil");
        assert!(client.unary(request, kserve::frame(&photo_question(1))).await.is_ok());
        let seen = world.upstream.last(MODEL_INFER);
        let parent = seen.headers["traceparent"].to_str().unwrap().to_owned();
        assert_ne!(parent, PARENT, "{settings}: ours, in its place");
        assert_eq!(seen.headers.get_all("traceparent").iter().count(), 1);
        assert_eq!(parent.starts_with(&PARENT[..35]), believed, "{settings}: {parent}");
        assert_eq!(seen.headers.contains_key("tracestate"), believed, "{settings}");
        assert_eq!(seen.headers.contains_key("baggage"), believed, "{settings}");
        let calls = calls_of(&collector, world).await;
        assert_eq!(calls[0][0].parent_span_id == [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7], believed);
    }
}

#[tokio::test]
async fn an_unbelieved_caller_cannot_have_its_calls_sampled() {
    let (collector, world) = traced("telemetry.sample = 0.0").await;
    let client = world.client().await;
    let request =
        grpc(MODEL_INFER).header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert!(client.unary(request, kserve::frame(&photo_question(1))).await.is_ok());
    let parent = world.upstream.last(MODEL_INFER).headers["traceparent"].to_str().unwrap().to_owned();
    assert!(parent.ends_with("-00"), "{parent}");
    assert!(calls_of(&collector, world).await.is_empty());
}

#[tokio::test]
async fn short_circuits_are_never_lost_to_sampling() {
    for (keep, expected) in [(false, 0), (true, 1)] {
        let settings = format!("telemetry.sample = 0.0\ntelemetry.keep_short_circuits = {keep}");
        let (collector, world) = traced(&settings).await;
        let client = world.client().await;
        for picture in [photo(1), one_pixel(&photo(1), 3), photo(2)] {
            assert!(client.infer(&question([&picture])).await.is_ok());
        }
        let calls = calls_of(&collector, world).await;
        assert_eq!(calls.len(), expected, "keep_short_circuits = {keep}");
        for call in &calls {
            assert_eq!(said(&call[0], "refrain.decision"), "short_circuited");
            assert!(call.len() > 2, "with its parts");
        }
        assert_eq!(collector.look(|taken| taken.logs.len()), 1, "as a log record in any case");
    }
}

#[tokio::test]
async fn the_level_of_the_log_does_not_decide_which_spans_exist() {
    refrain::telemetry::start_logging("off", false);
    let (collector, world) = traced("").await;
    assert!(world.client().await.infer(&photo_question(1)).await.is_ok());
    let calls = calls_of(&collector, world).await;
    let names: Vec<&str> = calls[0].iter().map(|span| span.name.as_str()).collect();
    let method = "inference.GRPCInferenceService/ModelInfer";
    assert_eq!(names, [method, "read", "judge", method, "settle"]);
}

#[tokio::test]
async fn a_stream_is_one_span_with_an_event_for_each_message() {
    let (collector, world) = traced("").await;
    has_streams(&world);
    let client = world.client().await;
    let mut call = client.open(grpc(STREAM)).await;
    for picture in [photo(1), one_pixel(&photo(1), 3), photo(2)] {
        call.data(kserve::frame(&question([&picture])), false);
    }
    call.data(bytes::Bytes::new(), true);
    let reply = call.reply().await;
    assert_eq!(reply.code(), Some(Code::Ok), "{reply:?}");
    let calls = calls_of(&collector, world).await;
    let [stream] = &calls[..] else { panic!("one stream: {calls:?}") };
    assert_eq!(stream[0].name, "inference.GRPCInferenceService/ModelStreamInfer");
    let mut decisions: Vec<String> = stream[0]
        .events
        .iter()
        .map(|event| attribute(&event.attributes, "refrain.decision").unwrap())
        .collect();
    decisions.sort();
    assert_eq!(decisions, ["forwarded", "forwarded", "short_circuited"]);
    assert_eq!(stream[0].links.len(), 1);
    assert_eq!(stream.iter().filter(|span| span.kind == CLIENT).count(), 2);
}

/// A call of `_OTHER`, to the end of its stream; and the same where the caller goes away or the model server does.
#[tokio::test]
async fn a_call_that_passes_through_is_a_clients_call_until_its_stream_ends() {
    const ALLOWED: &str = "/test.Service/Stream";
    for (end, code) in [("trailers", "ABORTED"), ("cancelled", "CANCELLED"), ("cut", "UNAVAILABLE")] {
        let (collector, world) = traced("rpc.allow = ['test.Service/Stream']").await;
        let calls_to_upstream = move |page: &str| {
            let call =
                format!("rpc_method=\"_OTHER\",rpc_status_code=\"{code}\",rpc_system_name=\"grpc\"}} 1");
            let counts = |line: &&str| line.starts_with("rpc_client_call_duration_seconds_count{");
            page.lines().filter(counts).any(|line| line.ends_with(&call))
        };
        world.upstream.on(ALLOWED, move |mut exchange| async move {
            let mut sending = exchange.begin(HeaderMap::new());
            while let Some(Ok(data)) = exchange.next().await {
                sending.send_data(data, false).unwrap();
            }
            match end {
                "trailers" => {
                    let status =
                        HeaderMap::from_iter([("grpc-status".parse().unwrap(), "10".parse().unwrap())]);
                    sending.send_trailers(status).unwrap();
                }
                how => {
                    if how == "cut" {
                        exchange.connection.cut();
                    }
                    std::future::pending::<()>().await;
                }
            }
        });
        let client = world.client().await;
        let request =
            grpc(ALLOWED).header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let mut call = client.open(request.header("baggage", "tenant=evil")).await;
        call.data(kserve::wrap(b"a message"), false);
        world.upstream.until_asked(ALLOWED, 1).await;
        let seen = world.upstream.last(ALLOWED);
        assert!(!calls_to_upstream(&world.metrics()), "{end}: it goes on");
        if end == "cancelled" {
            call.cancel();
        } else {
            call.data(bytes::Bytes::new(), true);
            let reply = call.reply().await;
            assert_eq!(
                reply.code().map(|code| format!("{code:?}").to_uppercase()).as_deref(),
                Some(code),
                "{reply:?}"
            );
        }
        until(end, || calls_to_upstream(&world.metrics())).await;

        let calls = calls_of(&collector, world).await;
        let [call] = &calls[..] else { panic!("{end}: one call: {calls:?}") };
        let [server, client] = &call[..] else { panic!("{end}: one call to the model server: {call:?}") };
        for span in [server, client] {
            assert_eq!((span.name.as_str(), said(span, "rpc.method").as_str()), ("grpc", "_OTHER"));
            assert_eq!(said(span, "rpc.status_code"), code);
        }
        assert_eq!((client.kind, status(client)), (CLIENT, ERROR));
        assert_eq!(said(client, "server.address"), "127.0.0.1");
        assert_eq!(status(server), if code == "UNAVAILABLE" { ERROR } else { UNSET });
        assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
        assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
        let expected = format!("00-{}-{}-01", hexadecimal(&client.trace_id), hexadecimal(&client.span_id));
        assert_eq!(seen.headers["traceparent"], expected, "{end}: ours, in its place");
        assert!(!seen.headers.contains_key("baggage"));
    }
}

#[tokio::test]
async fn a_known_method_that_passes_through_is_told_by_its_name() {
    let (collector, world) = traced("").await;
    let client = world.client().await;
    let unknown = pb::ModelMetadataRequest { name: "nobody".into(), version: String::new() };
    let reply = client.unary(grpc(MODEL_METADATA), kserve::frame(&unknown)).await;
    assert_eq!(reply.code(), Some(Code::NotFound));
    let calls = calls_of(&collector, world).await;
    let [server, client] = &calls[0][..] else { panic!("two spans: {calls:?}") };
    for span in [server, client] {
        assert_eq!(format!("/{}", span.name), MODEL_METADATA);
        assert_eq!(said(span, "rpc.status_code"), "NOT_FOUND");
    }
    assert_eq!((status(server), status(client)), (UNSET, ERROR));
}

#[tokio::test]
async fn the_stream_that_decoupled_models_are_asked_on_is_one_call() {
    let (collector, world) = traced("").await;
    world.upstream.on(MODEL_CONFIG, |exchange| async move {
        let mut said = kserve::config();
        let config = said.config.as_mut().unwrap();
        config.model_transaction_policy = Some(pb::ModelTransactionPolicy { decoupled: true });
        exchange.answer_with(kserve::frame(&said), HeaderMap::new(), HeaderMap::new());
    });
    has_streams(&world);
    let client = world.client().await;
    let mut call = client.open(grpc(STREAM)).await;
    for picture in [photo(1), photo(2)] {
        call.data(kserve::frame(&question([&picture])), false);
    }
    call.data(bytes::Bytes::new(), true);
    assert_eq!(call.reply().await.code(), Some(Code::Ok));
    let seen = world.upstream.last(STREAM);
    let calls = calls_of(&collector, world).await;
    let clients: Vec<&Span> = calls[0].iter().filter(|span| span.kind == CLIENT).collect();
    let [client] = clients[..] else { panic!("one call: {:?}", calls[0]) };
    assert_eq!((client.name.as_str(), said(client, "rpc.status_code").as_str()), (&STREAM[1..], "OK"));
    let expected = format!("00-{}-{}-01", hexadecimal(&client.trace_id), hexadecimal(&client.span_id));
    assert_eq!(seen.headers["traceparent"], expected);
}

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

#[tokio::test]
async fn every_judged_row_is_measured_against_the_nearest_anchor() {
    let world = World::new().config("mode = 'observe'").start().await;
    let client = world.client().await;
    for picture in [photo(1), photo(2), one_pixel(&photo(1), 3), photo(1)] {
        assert!(client.infer(&question([&picture])).await.is_ok());
    }
    let page = world.metrics();
    let value = |name: &str| -> f64 {
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    // The first row of all has no anchor to be measured against.
    assert_eq!(value("refrain_match_distance_count{exact=\"false\",model=\"clf\"}") as u32, 2);
    assert_eq!(value("refrain_match_distance_count{exact=\"true\",model=\"clf\"}") as u32, 1);
    assert_eq!(value("refrain_match_distance_bucket{exact=\"false\",model=\"clf\",le=\"10\"}") as u32, 1);
    assert_eq!(
        value("refrain_match_distance_positions_bucket{exact=\"false\",model=\"clf\",le=\"1\"}") as u32,
        1
    );
    for decided in [
        "decision=\"forwarded\",model=\"clf\",reason=\"new\",ruling=\"forward\"",
        "decision=\"monitored\",model=\"clf\",reason=\"exact\",ruling=\"replay\"",
    ] {
        assert!(value(&format!("refrain_decisions_total{{{decided}}}")) >= 1.0);
    }
    let client_calls = "rpc_client_call_duration_seconds_count{rpc_method=\"inference.GRPCInferenceService/ModelInfer\",\
                        rpc_status_code=\"OK\",rpc_system_name=\"grpc\"}";
    assert_eq!(value(client_calls) as u32, 4);
    for stage in ["read", "judge", "settle", "total"] {
        assert_eq!(
            value(&format!("refrain_added_latency_seconds_count{{stage=\"{stage}\"}}")) as u32,
            4,
            "{stage}"
        );
    }
    assert_eq!(value("refrain_sessions_active") as u32, 1);
    assert!(
        value("refrain_store_usage_bytes") > 0.0
            && value("refrain_store_limit_bytes") > value("refrain_store_usage_bytes")
    );
}

/// What is pushed, as the page would write it: its names by the rules of Prometheus, its counts as they are.
fn as_the_page_writes_it(metric: &Metric) -> Vec<(String, f64)> {
    let unit = match metric.unit.as_str() {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let name = format!("{}{unit}", metric.name.replace('.', "_"));
    let labels = |attributes: &[KeyValue]| {
        let mut pairs: Vec<String> = attributes
            .iter()
            .map(|pair| {
                let value = attribute(attributes, &pair.key).unwrap();
                format!("{}=\"{value}\"", pair.key.replace('.', "_"))
            })
            .collect();
        pairs.sort();
        if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
    };
    let number = |point: &NumberDataPoint| match point.value.unwrap() {
        number_data_point::Value::AsInt(value) => value as f64,
        number_data_point::Value::AsDouble(value) => value,
    };
    let numbers = |points: &[NumberDataPoint], suffix: &str| {
        let sample =
            |point: &NumberDataPoint| (format!("{name}{suffix}{}", labels(&point.attributes)), number(point));
        points.iter().map(sample).collect()
    };
    match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => numbers(&gauge.data_points, ""),
        Data::Sum(sum) => numbers(&sum.data_points, if sum.is_monotonic { "_total" } else { "" }),
        Data::Histogram(histogram) => {
            let count = |point: &HistogramDataPoint| {
                (format!("{name}_count{}", labels(&point.attributes)), point.count as f64)
            };
            histogram.data_points.iter().map(count).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_collector_is_told_the_same_as_the_page_by_the_conventions_names() {
    let (collector, world) = traced("timing.mode = 'mean'").await;
    let client = world.client().await;
    for picture in [photo(1), photo(2), one_pixel(&photo(1), 3), photo(1)] {
        assert!(client.infer(&question([&picture])).await.is_ok());
    }
    world.upstream.then(Step::Status(Code::Unavailable, "later"));
    assert_eq!(client.infer(&photo_question(9)).await.code(), Some(Code::Unavailable));
    let page = world.metrics();
    // The last push is at the end; nothing was asked in between.
    world.stop().await;
    let pushed = collector.look(|taken| taken.metrics.last().cloned()).unwrap();

    let names: Vec<(&str, &str)> =
        pushed.iter().map(|metric| (metric.name.as_str(), metric.unit.as_str())).collect();
    for wanted in [
        ("rpc.server.call.duration", "s"),
        ("rpc.client.call.duration", "s"),
        ("refrain.decisions", "{row}"),
        ("refrain.match.distance", "{bit}"),
        ("refrain.delay.added", "s"),
        ("refrain.store.usage", "By"),
        ("refrain.suspected_callers", "{session}"),
        ("refrain.telemetry.dropped", "{item}"),
    ] {
        assert!(names.contains(&wanted), "{wanted:?} in {names:?}");
    }
    let of_process = ["refrain_telemetry_", "refrain_store_"];
    let counted = |samples: Vec<(String, f64)>| -> BTreeMap<String, u64> {
        let of_calls = |name: &str| !of_process.iter().any(|other| name.starts_with(other));
        let whole = |(name, value): (String, f64)| (name, value as u64);
        samples.into_iter().filter(|(name, _)| of_calls(name)).map(whole).collect()
    };
    let told = counted(pushed.iter().flat_map(as_the_page_writes_it).collect());
    let shown = page.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse::<f64>().unwrap())
    });
    let is_part = |name: &str| {
        name.split('{').next().is_some_and(|name| name.ends_with("_bucket") || name.ends_with("_sum"))
    };
    assert_eq!(told, counted(shown.filter(|(name, _)| !is_part(name)).collect()));

    let calls = pushed.iter().find(|metric| metric.name == "rpc.server.call.duration").unwrap();
    let Some(Data::Histogram(calls)) = &calls.data else { panic!("{calls:?}") };
    assert_eq!(calls.aggregation_temporality, 2, "since the start");
    let codes: Vec<String> = calls
        .data_points
        .iter()
        .map(|point| attribute(&point.attributes, "rpc.status_code").unwrap())
        .collect();
    assert!(codes.contains(&"OK".to_owned()) && codes.contains(&"UNAVAILABLE".to_owned()), "{codes:?}");
    assert!(calls.data_points.iter().all(|point| point.explicit_bounds.contains(&250e-6)));
    collector.look(|taken| {
        let resource = taken.resource.as_ref().unwrap();
        assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("refrain"));
        assert!(taken.schemas.iter().all(|schema| schema == "https://opentelemetry.io/schemas/1.45.0"));
    });
}

#[tokio::test]
async fn sidecars_of_one_process_count_each_for_itself() {
    let (first, second) = (World::new().start().await, World::new().start().await);
    assert!(first.client().await.infer(&photo_question(1)).await.is_ok());
    assert_eq!((first.totals().forwarded_rows, second.totals().forwarded_rows), (1, 0));
    assert!(second.metrics().contains("refrain_forwarded_rows_total 0\n"));
}

#[tokio::test]
async fn a_model_that_a_caller_invents_is_no_series() {
    let world = World::new().start().await;
    let client = world.client().await;
    for number in 0..20 {
        let mut question = photo_question(number);
        question.model_name = format!("invented-{number}");
        assert_eq!(client.infer(&question).await.code(), Some(Code::NotFound));
    }
    assert!(!world.metrics().contains("invented"));
}

#[tokio::test]
async fn a_collector_that_is_dead_slow_or_refuses_costs_no_call_anything_but_counters() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = format!("telemetry.endpoint = 'http://{}'", free.local_addr().unwrap());
    drop(free);
    let slow = Collector::start(Manner::Slow(Duration::from_secs(10))).await;
    let refuses = Collector::start(Manner::Refuses).await;
    for (settings, what) in [(dead, "dead"), (slow.settings(), "slow"), (refuses.settings(), "refusing")] {
        let world = World::new().config(&settings).start().await;
        let client = world.client().await;
        // More calls than the queue has places.
        let began = Instant::now();
        for number in 0..900 {
            assert!(client.infer(&photo_question(number)).await.is_ok(), "{what}: call {number}");
        }
        assert!(began.elapsed() < Duration::from_secs(9), "{what}: {:?}", began.elapsed());
        let lost = || {
            let page = world.metrics();
            let line = page
                .lines()
                .find(|line| line.starts_with("refrain_telemetry_dropped_total{signal=\"spans\"}"));
            line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        until(what, || lost() > 0).await;
        let began = Instant::now();
        world.stop().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: the end waits for nobody");
    }
}

/// A certificate for `localhost` that is its own CA, in files too.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Identity {
    fn new(folder: &tempfile::TempDir, name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let [certificate, key] = ["pem", "key"].map(|what| folder.path().join(format!("{name}.{what}")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { certificate, key, made }
    }

    /// A server that is this, and that takes none but `client` where one is named.
    fn serves(&self, client: Option<&Self>) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let mut roots = RootCertStore::empty();
                roots.add(client.made.cert.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(self.made.signing_key.serialize_der()).unwrap();
        builder.with_single_cert(vec![self.made.cert.der().clone()], key).unwrap()
    }
}

#[tokio::test]
async fn over_https_spans_go_to_the_collector_that_the_ca_vouches_for_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let [server, client, stranger] =
        ["server", "client", "stranger"].map(|name| Identity::new(&folder, name));
    for (takes, ca, identity, arrives) in [
        (None, Some(&server), None, true),
        (None, Some(&stranger), None, false),
        // The system's own know nothing of it.
        (None, None, None, false),
        (Some(&client), Some(&server), Some(&client), true),
        (Some(&client), Some(&server), Some(&stranger), false),
        (Some(&client), Some(&server), None, false),
    ] {
        let collector = Collector::start_tls(server.serves(takes)).await;
        let file = |path: &PathBuf| path.display().to_string();
        let variables = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_CERTIFICATE" => ca.map(|ca| file(&ca.certificate)),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE" => identity.map(|identity| file(&identity.certificate)),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY" => identity.map(|identity| file(&identity.key)),
            _ => None,
        };
        let settings = Settings {
            endpoint: Some(collector.address().to_owned()),
            sample: None,
            keep_short_circuits: false,
            trust_context: TrustContext::Never,
            digest_key: None,
            rotate_digests: Duration::ZERO,
        };
        let telemetry = Telemetry::start(&settings, &variables);
        let head = Head { method: "a.B/C", ..Head::default() };
        telemetry.begin(&head).unwrap().end("OK");
        telemetry.finish(support::PATIENCE).await;
        assert_eq!(collector.spans().len(), usize::from(arrives));
        let failed = "refrain_telemetry_failed_exports_total{signal=\"spans\"} 1";
        let page = telemetry.metrics.prometheus();
        assert_eq!(page.contains(failed), !arrives, "{page}");
    }
}

#[tokio::test]
async fn the_admin_port_says_whether_calls_should_come_and_why_not() {
    let world = World::new()
        .config("admin.listen = '127.0.0.1:0'\ntelemetry.digest_key = 'a secret of sixteen'")
        .start()
        .await;
    let admin = world.admin.clone().unwrap();
    assert!(get(&admin, "/livez").await.starts_with("HTTP/1.1 200"));
    support::within("ready", async {
        while !get(&admin, "/readyz").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    world.upstream.set_ready(false);
    support::within("not ready", async {
        loop {
            let said = get(&admin, "/readyz").await;
            if said.starts_with("HTTP/1.1 503") {
                assert!(said.contains("not ready: upstream: the model server is not ready"), "{said}");
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let metrics = get(&admin, "/metrics").await;
    assert!(metrics.contains("refrain_upstream_ready 0") && metrics.contains("version=0.0.4"), "{metrics}");
    let config = get(&admin, "/config").await;
    assert!(config.contains("digest_key = \"redacted\"") && !config.contains("sixteen"), "{config}");
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nhost: localhost\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nhost: localhost\r\n", "405"),
        ("GET /config HTTP/1.1\r\nhost: evil.example\r\n", "403"),
        ("GET /sessions HTTP/1.1\r\nhost: evil.example\r\n", "403"),
        ("PUT /log HTTP/1.1\r\nhost: evil.example\r\ncontent-length: 5\r\n", "403"),
        ("PUT /log HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n", "413"),
    ] {
        let said = ask(&admin, &format!("{request}connection: close\r\n\r\n{}", "x".repeat(5000))).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {said}");
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A page of the admin port, head and all.
async fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
}

async fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses may not read to the end.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

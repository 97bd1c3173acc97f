//! The spans of calls.

use std::collections::BTreeMap;

use http::HeaderMap;
use opentelemetry_proto::tonic::trace::v1::Span;
use refrain::protocol::pb;
use tonic::Code;

use crate::support::client::grpc;
use crate::support::collector::{Collector, attribute, names};
use crate::support::kserve::{self, MODEL_CONFIG, MODEL_INFER, MODEL_METADATA, question};
use crate::support::pictures::{one_pixel, photo, photo_question};
use crate::support::upstream::Step;
use crate::support::{Running, until};
use crate::{STREAM, has_streams, traced};

/// Kinds of spans, as the wire numbers them.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// A status that nobody set, as the wire numbers it, and an error.
const UNSET: i32 = 0;
const ERROR: i32 = 2;

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

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

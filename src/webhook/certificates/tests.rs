//! Replicas that keep one Secret, against a stand-in for the API server: it stores objects with versions, refuses writes that
//! come too late, applies JSON Patch and streams changes, as far as we ask for it. No real API server could be had for the
//! tests; the client is the one that runs in a cluster.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use super::authority::Kept;
use super::secret::Cluster;
use super::{CertificateError, Served};
use crate::webhook::metrics::Metrics;
use crate::webhook::settings::OwnCertificates;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Objects by path, and who wants to hear of changes.
struct ApiServer {
    state: Mutex<State>,
    changes: broadcast::Sender<(String, Value)>,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    conflicts: usize,
    is_down: bool,
}

const SECRET: &str = "/api/v1/namespaces/refrain/secrets/refrain-webhook-tls";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/refrain";

impl ApiServer {
    async fn start() -> (Arc<Self>, Client) {
        let server = Arc::new(Self { state: Mutex::default(), changes: broadcast::channel(64).0 });
        let webhooks = ["pods.refrain.dev", "namespaces.refrain.dev"].map(|name| {
            let service = json!({"name": "refrain-webhook", "namespace": "refrain", "path": "/mutate"});
            let (config, versions) = (json!({"service": service}), json!(["v1"]));
            json!({"name": name, "clientConfig": config, "sideEffects": "None", "admissionReviewVersions": versions})
        });
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "refrain"},
            "webhooks": webhooks,
        });
        server.put(CONFIGURATION, configuration);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let server = Arc::clone(&serving);
                let service = service_fn(move |request| {
                    let server = Arc::clone(&server);
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
        config.default_namespace = "refrain".to_owned();
        (server, Client::try_from(config).unwrap())
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.insert(path.to_owned(), object.clone());
        drop(state);
        let _ = self.changes.send((path.to_owned(), object.clone()));
        object
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body: Value =
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or(Value::Null);
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        if self.state.lock().unwrap().is_down {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "etcd");
        }
        let is_collection = path.ends_with("/secrets") || path.ends_with("/mutatingwebhookconfigurations");
        match (head.method, is_collection) {
            (Method::GET, true) => {
                let name = query.split("metadata.name%3D").nth(1).unwrap().split('&').next().unwrap();
                let path = format!("{path}/{name}");
                if query.contains("watch=true") { self.watch(&path) } else { self.list(&path) }
            }
            (Method::GET, false) => match self.get(&path) {
                Some(object) => answer(StatusCode::OK, &object),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            (Method::POST, true) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.get(&path).is_some() {
                    return self.conflict("AlreadyExists");
                }
                self.write(&path, body)
            }
            (Method::PUT, false) => {
                let Some(found) = self.get(&path) else { return failure(StatusCode::NOT_FOUND, "NotFound") };
                let is_current = found["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"];
                if is_current { self.write(&path, body) } else { self.conflict("Conflict") }
            }
            (Method::PATCH, false) => {
                assert_eq!(head.headers["content-type"], "application/json-patch+json");
                let Some(mut found) = self.get(&path) else {
                    return failure(StatusCode::NOT_FOUND, "NotFound");
                };
                let patch: json_patch::Patch = serde_json::from_value(body).unwrap();
                match json_patch::patch(&mut found, &patch) {
                    Ok(()) => self.write(&path, found),
                    Err(_) => failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
                }
            }
            (method, _) => panic!("not asked for by us: {method} {path}"),
        }
    }

    fn write(&self, path: &str, object: Value) -> Response<Body> {
        self.state.lock().unwrap().writes.push(path.to_owned());
        answer(StatusCode::OK, &self.put(path, object))
    }

    fn conflict(&self, reason: &str) -> Response<Body> {
        self.state.lock().unwrap().conflicts += 1;
        failure(StatusCode::CONFLICT, reason)
    }

    fn list(&self, path: &str) -> Response<Body> {
        let items: Vec<Value> = self.get(path).into_iter().collect();
        let version = self.state.lock().unwrap().version.to_string();
        answer(
            StatusCode::OK,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn watch(&self, path: &str) -> Response<Body> {
        let path = path.to_owned();
        let changes = stream::unfold((self.changes.subscribe(), path), |(mut changes, path)| async move {
            loop {
                let (changed, object) = changes.recv().await.ok()?;
                if changed == path {
                    let event = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
                    return Some((Ok(Frame::data(Bytes::from(event))), (changes, path)));
                }
            }
        });
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(changes)));
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }

    /// Every `caBundle` of the configuration.
    fn told(&self) -> Vec<String> {
        let configuration = self.get(CONFIGURATION).unwrap();
        let bundles = configuration["webhooks"].as_array().unwrap().iter().map(|webhook| {
            let bundle: Option<ByteString> =
                serde_json::from_value(webhook["clientConfig"]["caBundle"].clone()).unwrap();
            bundle.map(|bundle| String::from_utf8(bundle.0).unwrap()).unwrap_or_default()
        });
        bundles.collect()
    }

    fn kept(&self) -> Kept {
        let secret: Secret = serde_json::from_value(self.get(SECRET).unwrap()).unwrap();
        Kept::read(&secret.data.unwrap()).unwrap()
    }

    /// Waits until the caBundle is what the Secret says.
    async fn is_told(&self) {
        let mut changes = self.changes.subscribe();
        let told = async {
            while self.get(SECRET).is_none() || self.told().iter().any(|told| *told != self.kept().trusted())
            {
                let _ = changes.recv().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("the API server is told in time");
    }
}

fn answer(status: StatusCode, object: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(object.to_string())).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn failure(status: StatusCode, reason: &str) -> Response<Body> {
    let code = status.as_u16();
    answer(
        status,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}

const DAY: Duration = Duration::from_hours(24);

fn settings() -> OwnCertificates {
    OwnCertificates {
        secret: "refrain-webhook-tls".to_owned(),
        service: "refrain-webhook".to_owned(),
        configuration: "refrain".to_owned(),
        namespace: None,
        life: 30 * DAY,
    }
}

#[tokio::test]
async fn replicas_that_race_agree_on_one_ca() {
    let (server, client) = ApiServer::start().await;
    let now = SystemTime::now();
    let replicas: Vec<_> = (0..4).map(|_| Cluster::new(client.clone(), &settings())).collect();
    let looks = futures_util::future::join_all(replicas.iter().map(|replica| replica.look(now))).await;
    let expected = server.kept().pair().unwrap();
    for look in looks {
        assert_eq!(look.unwrap().key.cert, expected.key.cert, "each serves what is kept");
    }
    assert_eq!(server.told(), vec![server.kept().trusted(); 2], "for every webhook of the configuration");
    let state = server.state.lock().unwrap();
    assert_eq!(state.writes.iter().filter(|path| *path == SECRET).count(), 1, "{:?}", state.writes);
}

#[tokio::test]
async fn through_years_of_rotation_what_is_served_was_told_before() {
    let (server, client) = ApiServer::start().await;
    let replicas = [Cluster::new(client.clone(), &settings()), Cluster::new(client, &settings())];
    let mut now = SystemTime::now();
    let mut told_before = String::new();
    for turn in 0..24 * 300 / 7 {
        now += Duration::from_hours(7);
        let pairs = futures_util::future::join(replicas[0].look(now), replicas[1].look(now)).await;
        let (first, second) = (pairs.0.unwrap(), pairs.1.unwrap());
        assert_eq!(first.key.cert, second.key.cert);
        let told = server.told();
        assert_eq!(told, vec![server.kept().trusted(); 2]);
        let shares =
            told[0].split_inclusive("-----END CERTIFICATE-----").filter(|part| !part.trim().is_empty());
        let overlaps = shares.into_iter().any(|part| told_before.contains(part.trim()));
        assert!(turn == 0 || overlaps, "old and new CA are told together");
        told_before.clone_from(&told[0]);
    }
    let conflicts = server.state.lock().unwrap().conflicts;
    assert!(conflicts > 0, "the replicas did race");
}

#[tokio::test]
async fn what_somebody_takes_back_is_told_again() {
    let (server, client) = ApiServer::start().await;
    let (served, metrics) = (Arc::new(Served::default()), Arc::new(Metrics::new()));
    let keeping = {
        let (cluster, served, metrics) =
            (Cluster::new(client, &settings()), Arc::clone(&served), Arc::clone(&metrics));
        tokio::spawn(async move { cluster.keep(&served, &metrics).await })
    };
    server.is_told().await;
    // A tool that knows no caBundle writes the configuration as it was installed.
    for _ in 0..3 {
        let mut configuration = server.get(CONFIGURATION).unwrap();
        for webhook in configuration["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"].as_object_mut().unwrap().remove("caBundle");
        }
        server.put(CONFIGURATION, configuration);
        server.is_told().await;
    }
    // Somebody empties the Secret: another CA, told again.
    let before = server.kept();
    let mut secret = server.get(SECRET).unwrap();
    secret["data"] = Value::Null;
    server.put(SECRET, secret);
    let mut changes = server.changes.subscribe();
    let replaced = async {
        while server.get(SECRET).unwrap()["data"].is_null() {
            let _ = changes.recv().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), replaced).await.expect("it is made anew in time");
    server.is_told().await;
    assert!(server.kept() != before && served.is_there());
    keeping.abort();
}

#[tokio::test]
async fn an_api_server_in_trouble_is_told_of_and_changes_nothing() {
    let (server, client) = ApiServer::start().await;
    let replica = Cluster::new(client, &settings());
    let now = SystemTime::now();
    replica.look(now).await.unwrap();
    let before = (server.kept(), server.told());
    server.state.lock().unwrap().is_down = true;
    let error = replica.look(now).await.unwrap_err();
    assert!(matches!(error, CertificateError::Cluster(_)), "{error}");
    server.state.lock().unwrap().is_down = false;
    replica.look(now).await.unwrap();
    assert_eq!((server.kept(), server.told()), before);
    server.state.lock().unwrap().objects.remove(CONFIGURATION);
    let error = replica.look(now).await.unwrap_err().to_string();
    assert!(error.contains("NotFound"), "{error}");
}

//! A fake model server on bare HTTP/2: it remembers what it is asked and answers as a test scripts it.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response, Uri, request};
use prost::Message;
use refrain::protocol::pb;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tonic::Code;

use super::client::AUTHORITY;
use super::kserve::{self, MODEL_CONFIG, MODEL_INFER, MODEL_METADATA, SERVER_READY};
use super::within;

/// A model server. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Fake {
    shared: Arc<Shared>,
}

/// What the next `ModelInfer` call meets in place of an answer.
pub(crate) enum Step {
    /// The usual answer, after all.
    Answer,
    /// A status, all in trailers.
    Status(Code, &'static str),
    /// The stream is reset.
    Reset(Reason),
    /// The connection is lost.
    Cut,
    /// Another answer than the usual.
    Other(pb::ModelInferResponse),
}

/// A call as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// Bytes of the body, prefix included.
    pub(crate) body: Bytes,
}

impl Seen {
    /// The question of a `ModelInfer`.
    pub(crate) fn question(&self) -> pb::ModelInferRequest {
        pb::ModelInferRequest::decode(self.body.slice(5..)).expect("the forwarded question decodes")
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> usize {
        self.question().inputs[0].shape[0] as usize
    }
}

/// A call in the hands of a test's own handler.
pub(crate) struct Exchange {
    pub(crate) head: request::Parts,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendResponse<Bytes>,
    /// The connection that it came on.
    pub(crate) connection: Connection,
}

/// The means to end a connection.
#[derive(Clone)]
pub(crate) struct Connection(mpsc::UnboundedSender<End>);

enum End {
    GoAway,
    Cut,
}

type Handler = Arc<dyn Fn(Exchange) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

struct Shared {
    address: String,
    state: Mutex<State>,
    /// Counts everything that happens, for those who wait for it.
    changed: watch::Sender<u64>,
    /// One permit for each `ModelInfer` that may be answered.
    gate: Semaphore,
}

#[derive(Default)]
struct State {
    seen: HashMap<String, Vec<Seen>>,
    script: VecDeque<Step>,
    handlers: HashMap<String, Handler>,
    connections: Vec<Connection>,
    opened: usize,
    resets: usize,
    stamped: bool,
    not_ready: bool,
    headers: HeaderMap,
    trailers: HeaderMap,
    listening: Option<JoinHandle<()>>,
}

/// So many calls pass the gate while nobody closes it.
const OPEN: usize = 1 << 20;

impl Fake {
    /// A server on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let fake = Self::new(format!("http://{}", listener.local_addr().expect("a bound port")));
        fake.listen_on(listener);
        fake
    }

    /// A server on a UNIX socket.
    pub(crate) fn start_unix(path: &std::path::Path) -> Self {
        let listener = UnixListener::bind(path).expect("a free path");
        let fake = Self::new(format!("unix:{}", path.display()));
        let this = fake.clone();
        fake.listening(async move {
            while let Ok((stream, _)) = listener.accept().await {
                this.spawn_connection(stream);
            }
        });
        fake
    }

    /// A server that is not there yet: its address is known, and nobody listens.
    pub(crate) async fn absent() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::new(format!("http://{}", listener.local_addr().expect("a bound port")))
    }

    fn new(address: String) -> Self {
        let gate = Semaphore::new(OPEN);
        Self {
            shared: Arc::new(Shared {
                address,
                state: Mutex::default(),
                changed: watch::Sender::new(0),
                gate,
            }),
        }
    }

    /// Comes up at the address where it was absent.
    pub(crate) async fn appear(&self) {
        let address = self.shared.address.trim_start_matches("http://");
        self.listen_on(TcpListener::bind(address).await.expect("the port is still free"));
    }

    fn listen_on(&self, listener: TcpListener) {
        let this = self.clone();
        self.listening(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a TCP socket");
                this.spawn_connection(stream);
            }
        });
    }

    fn listening(&self, accepting: impl Future<Output = ()> + Send + 'static) {
        self.lock().listening = Some(tokio::spawn(accepting));
    }

    /// Its address, as settings write it.
    pub(crate) fn address(&self) -> String {
        self.shared.address.clone()
    }

    /// Whether it listens.
    pub(crate) fn is_up(&self) -> bool {
        self.lock().listening.is_some()
    }

    /// Every answer from now on differs: the number of the call (1 for the first) stands in place of its first score.
    pub(crate) fn answers_differently(&self) {
        self.lock().stamped = true;
    }

    /// `ServerReady` says this from now on.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.lock().not_ready = !ready;
    }

    /// OK replies to `ModelInfer` carry these besides what they must.
    pub(crate) fn dress(&self, headers: HeaderMap, trailers: HeaderMap) {
        let mut state = self.lock();
        (state.headers, state.trailers) = (headers, trailers);
    }

    /// The next `ModelInfer` that no earlier step is for meets `step`.
    pub(crate) fn then(&self, step: Step) {
        self.lock().script.push_back(step);
    }

    /// From now on `ModelInfer` calls wait until they are released.
    pub(crate) fn hold(&self) {
        self.shared.gate.forget_permits(OPEN);
    }

    /// Lets `calls` of those that wait go on.
    pub(crate) fn release(&self, calls: usize) {
        self.shared.gate.add_permits(calls);
    }

    /// Calls to `path` go to `handler`.
    pub(crate) fn on<F>(&self, path: &str, handler: impl Fn(Exchange) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |exchange| Box::pin(handler(exchange)));
        self.lock().handlers.insert(path.to_owned(), handler);
    }

    /// The calls to `path` so far, in the order in which they were read.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        self.lock().seen.get(path).cloned().unwrap_or_default()
    }

    /// The latest call to `path` that a caller made: the sidecar asks questions of its own, by the server's own name.
    pub(crate) fn last(&self, path: &str) -> Seen {
        let of_caller = |seen: &Seen| seen.uri.authority().is_some_and(|name| name == AUTHORITY);
        self.seen(path).into_iter().rfind(of_caller).expect("a caller asked")
    }

    /// The `ModelInfer` calls so far.
    pub(crate) fn infers(&self) -> Vec<Seen> {
        self.seen(MODEL_INFER)
    }

    /// How many `ModelInfer` calls were read so far.
    pub(crate) fn asked(&self) -> usize {
        self.lock().seen.get(MODEL_INFER).map_or(0, Vec::len)
    }

    /// How many calls ended because the other side reset them.
    pub(crate) fn resets(&self) -> usize {
        self.lock().resets
    }

    /// How many connections were opened so far.
    pub(crate) fn opened(&self) -> usize {
        self.lock().opened
    }

    /// Returns once `path` was called `times` times.
    pub(crate) async fn until_asked(&self, path: &str, times: usize) {
        let what = format!("{path} is called {times} times");
        self.until(&what, |fake| fake.seen(path).len() >= times).await;
    }

    /// Returns once `times` calls were reset by the other side.
    pub(crate) async fn until_reset(&self, times: usize) {
        self.until("calls are reset", |fake| fake.resets() >= times).await;
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let happens = async {
            while !condition(self) {
                changed.changed().await.expect("the server lives as long as its handle");
            }
        };
        within(what, happens).await;
    }

    /// Takes note of a call of a test's own handler.
    pub(crate) fn note_reset(&self) {
        self.lock().resets += 1;
        self.tell();
    }

    /// Goes away: nobody listens any more, and every connection ends.
    pub(crate) fn vanish(&self) {
        if let Some(listening) = self.lock().listening.take() {
            listening.abort();
        }
        self.cut();
    }

    /// Ends every connection without a word.
    pub(crate) fn cut(&self) {
        for connection in std::mem::take(&mut self.lock().connections) {
            connection.cut();
        }
    }

    fn spawn_connection(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let (end, ends) = mpsc::unbounded_channel();
        let connection = Connection(end);
        {
            let mut state = self.lock();
            state.connections.push(connection.clone());
            state.opened += 1;
        }
        self.tell();
        let this = self.clone();
        tokio::spawn(async move {
            // How a connection ends is the tests' affair, told by its calls.
            let _ = this.serve(stream, connection, ends).await;
        });
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        connection: Connection,
        mut ends: mpsc::UnboundedReceiver<End>,
    ) -> Result<(), h2::Error> {
        let mut http2 = h2::server::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(64 << 20)
            .max_frame_size(1 << 20)
            .handshake(stream)
            .await?;
        loop {
            let call = tokio::select! {
                call = http2.accept() => call,
                Some(end) = ends.recv() => match end {
                    End::GoAway => { http2.graceful_shutdown(); continue }
                    End::Cut => return Ok(()),
                },
            };
            let Some(call) = call else { return Ok(()) };
            let (request, respond) = call?;
            let (head, body) = request.into_parts();
            let exchange = Exchange { head, body, respond, connection: connection.clone() };
            let this = self.clone();
            tokio::spawn(async move { this.handle(exchange).await });
        }
    }

    async fn handle(&self, mut exchange: Exchange) {
        let path = exchange.head.uri.path().to_owned();
        let handler = self.lock().handlers.get(&path).cloned();
        if let Some(handler) = handler {
            self.note(&path, &exchange.head, Bytes::new());
            return handler(exchange).await;
        }
        let Ok(body) = exchange.read().await else { return self.note_reset() };
        let number = self.note(&path, &exchange.head, body.clone());
        let payload = body.slice(body.len().min(5)..);
        match path.as_str() {
            MODEL_INFER => self.infer(exchange, &payload, number).await,
            SERVER_READY => {
                let ready = !self.lock().not_ready;
                exchange.answer(&pb::ServerReadyResponse { ready });
            }
            MODEL_METADATA | MODEL_CONFIG => {
                let asked = pb::ModelMetadataRequest::decode(payload);
                match asked {
                    Ok(asked) if asked.name == "clf" && path == MODEL_CONFIG => {
                        exchange.answer(&kserve::config());
                    }
                    Ok(asked) if asked.name == "clf" => exchange.answer(&kserve::metadata()),
                    _ => exchange.status(Code::NotFound, "no such model"),
                }
            }
            _ => exchange.status(Code::Unimplemented, ""),
        }
    }

    async fn infer(&self, mut exchange: Exchange, payload: &Bytes, number: usize) {
        let (step, stamped) = {
            let mut state = self.lock();
            (state.script.pop_front().unwrap_or(Step::Answer), state.stamped)
        };
        let permit = tokio::select! {
            permit = self.shared.gate.acquire() => permit.expect("the gate is never closed for good"),
            _ = poll_fn(|context| exchange.respond.poll_reset(context)) => return self.note_reset(),
        };
        permit.forget();
        let answer = match step {
            Step::Status(code, message) => return exchange.status(code, message),
            Step::Reset(reason) => return exchange.respond.send_reset(reason),
            Step::Cut => return exchange.connection.cut(),
            Step::Other(answer) => answer,
            Step::Answer => {
                let Ok(request) = pb::ModelInferRequest::decode(payload.clone()) else {
                    return exchange.status(Code::Internal, "Unable to parse request");
                };
                if let Some((code, message)) = kserve::refusal(&request) {
                    return exchange.status(code, &message);
                }
                kserve::answer(&request, stamped.then_some(number as u32))
            }
        };
        let (headers, trailers) = {
            let state = self.lock();
            (state.headers.clone(), state.trailers.clone())
        };
        exchange.answer_with(kserve::frame(&answer), headers, trailers);
    }

    /// Remembers a call; returns its number among those to its path, from 1.
    fn note(&self, path: &str, head: &request::Parts, body: Bytes) -> usize {
        let number = {
            let mut state = self.lock();
            let seen = state.seen.entry(path.to_owned()).or_default();
            seen.push(Seen { uri: head.uri.clone(), headers: head.headers.clone(), body });
            seen.len()
        };
        self.tell();
        number
    }

    fn tell(&self) {
        self.shared.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Asks the peer to open no more calls on it; those that are open go on.
    pub(crate) fn go_away(&self) {
        let _ = self.0.send(End::GoAway);
    }

    /// Ends it without a word.
    pub(crate) fn cut(&self) {
        let _ = self.0.send(End::Cut);
    }

    /// Whether `other` is the same one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Exchange {
    /// The request's body to its end.
    pub(crate) async fn read(&mut self) -> Result<Bytes, h2::Error> {
        let mut gathered = BytesMut::new();
        while let Some(data) = self.next().await {
            gathered.extend_from_slice(&data?);
        }
        Ok(gathered.freeze())
    }

    /// The next DATA frame of the request.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let data = self.body.data().await?;
        if let Ok(data) = &data {
            self.body.flow_control().release_capacity(data.len()).expect("no more than was received");
        }
        Some(data)
    }

    /// Sends the reply's headers; frames and trailers are to come.
    pub(crate) fn begin(&mut self, headers: HeaderMap) -> SendStream<Bytes> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        // Where the caller has gone there is nobody to tell.
        self.respond.send_response(response, false).expect("the call is open")
    }

    fn answer(self, message: &impl Message) {
        self.answer_with(kserve::frame(message), HeaderMap::new(), HeaderMap::new());
    }

    /// An OK reply, with these headers and trailers besides what it must have.
    pub(crate) fn answer_with(mut self, frame: Bytes, mut headers: HeaderMap, mut trailers: HeaderMap) {
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        // The caller may have gone in the meantime: nobody to tell.
        let Ok(mut send) = self.respond.send_response(response, false) else { return };
        let _ = send.send_data(frame, false).and_then(|()| send.send_trailers(trailers));
    }

    /// A reply that is all headers.
    pub(crate) fn status(mut self, code: Code, message: &str) {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(code as i32));
        if !message.is_empty() {
            headers.insert("grpc-message", HeaderValue::from_str(message).expect("plain text"));
        }
        let _ = self.respond.send_response(response, true);
    }

    /// Returns when the other side resets the call or its connection ends.
    pub(crate) async fn until_reset(&mut self) {
        let _ = poll_fn(|context| self.respond.poll_reset(context)).await;
    }
}

/// The trailers of an OK reply.
pub(crate) fn ok_trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

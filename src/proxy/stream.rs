//! A stream of questions (`ModelStreamInfer`): every message is judged as a unary call is, and the replies keep the order of the
//! requests, as the model server's own do.
//!
//! A message of an ordinary model goes upstream as a unary call: the server's answer is the same but for a mark that
//! `protocol::triton::stream` adds, and it can be remembered, replayed and waited for like any other. Messages of decoupled
//! models, which may have any number of responses, go over a stream of their own: they are judged for the operator's eyes
//! only, and their responses stand outside the order, as the server's do. The two never share an upstream stream: Triton 2.51
//! aborts where they meet on one. Messages of stateful models wait for each other, since their order is their meaning.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame as HttpFrame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Code;

use super::body::{self, Body, BoxError};
use super::call::Opening;
use super::frame::{self, Frame, FrameError, Intake, Messages};
use super::lane::Lane;
use super::listen::Peer;
use super::models::{Model, Unknown};
use super::own::OwnLanes;
use super::predict::Predictor;
use super::read::{Arrival, Opened};
use super::status::{CallError, code_of, status};
use super::upstream::{Reply, UpstreamError};
use super::witness::{Asking, Witness};
use crate::protocol::Rpc;
use crate::protocol::triton::stream;
use crate::session::Store;

/// The path of the streaming call.
pub(super) const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// The header by which a caller asks that a model's error ends the stream with its status.
const GRPC_ERRORS: &str = "triton_grpc_error";

/// Messages of one stream that may wait for their answers; more are left unread until some are answered.
const OUTSTANDING: usize = 128;

/// Frames that wait for a caller to read them.
const UNREAD: usize = 4;

/// Answers one stream. Headers go out with the first message, as the model server's do.
pub(super) async fn serve<S: Store>(
    predictor: &Arc<Predictor<S>>,
    request: Request<Incoming>,
    peer: &Peer,
    lanes: &Arc<OwnLanes>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let live = predictor.live.load_full();
    let witness = Witness::of(&predictor.telemetry, STREAM, head.uri.authority(), &head.headers, peer, &live);
    let opening = match Opening::new(live, Rpc::Infer, head, peer, lanes, witness.trace()) {
        Ok(opening) => Opening { streams: true, ..opening },
        Err(error) => return predictor.refuse(error, witness),
    };
    match predictor.upstream.without_streams(STREAM).await {
        Ok(None) => {}
        Ok(Some(refusal)) => {
            witness.end(refusal.code());
            return refusal.into_response();
        }
        Err(error) => return predictor.refuse(error.into(), witness),
    }
    let (out, mut replies) = mpsc::channel(UNREAD);
    let conversation = Conversation {
        predictor: Arc::clone(predictor),
        grpc_errors: opening.head.headers.get(GRPC_ERRORS).is_some_and(|value| value == "true"),
        opening,
        lane: Arc::clone(lanes.streams()),
        out,
        answers: FuturesOrdered::new(),
        unsent: VecDeque::new(),
        decoupled: None,
        responses: None,
        turn: None,
        witness: Some(witness),
    };
    tokio::spawn(conversation.run(Messages::new(body)));
    match replies.recv().await {
        Some(Said::Message(first)) => {
            let mut response =
                Response::new(Replies { first: Some(first), next: replies, ended: false }.boxed_unsync());
            *response.headers_mut() = predictor.upstream.template.headers();
            response
        }
        Some(Said::End(status)) => {
            let mut response = Response::new(body::empty());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response.headers_mut().extend(status);
            response
        }
        None => {
            predictor.telemetry.metrics.rejected("panicked");
            CallError::Panicked.into_response()
        }
    }
}

/// What is said to the caller.
enum Said {
    /// One message with its prefix.
    Message(Bytes),
    /// The status that ends the stream.
    End(HeaderMap),
}

/// One stream, with what is under way for it.
struct Conversation<S> {
    predictor: Arc<Predictor<S>>,
    opening: Opening,
    /// The connection for calls of this caller's connection alone.
    lane: Arc<Lane>,
    out: mpsc::Sender<Said>,
    /// The caller asked that a model's errors end the stream with their status.
    grpc_errors: bool,
    /// Answers in the order of their questions.
    answers: FuturesOrdered<Answering>,
    /// Those that are there and that the caller has not taken yet.
    unsent: VecDeque<Bytes>,
    /// What is asked of decoupled models, on an upstream stream of their own.
    decoupled: Option<Decoupled>,
    /// What that stream says, which ends with its status.
    responses: Option<Responses>,
    /// Ends when the last message of a stateful model is answered.
    turn: Option<oneshot::Receiver<Infallible>>,
    /// None once the stream has ended.
    witness: Option<Witness>,
}

type Answering = Pin<Box<dyn Future<Output = Said> + Send>>;

type Responses = Pin<Box<dyn Future<Output = HeaderMap> + Send>>;

/// What is sent on the upstream's stream for decoupled models.
struct Decoupled {
    /// None once nothing more is asked.
    questions: Option<mpsc::Sender<HttpFrame<Bytes>>>,
    /// The next to be sent, in its caller's budget until it is.
    question: Option<Arc<Frame>>,
    /// Nothing comes after that.
    is_last: bool,
}

/// What comes next on a stream.
enum Next {
    /// A question, and the model that it asks.
    Asks(Box<Arrival>, Result<Arc<Model>, Unknown>),
    /// No question that we can read: it is answered with this error.
    Refused(CallError),
    /// Nothing more.
    End,
}

impl<S: Store> Conversation<S> {
    /// Reads, answers and writes until the stream ends on either side.
    async fn run(mut self, questions: Messages<Incoming>) {
        let out = self.out.clone();
        let deadline = self.opening.deadline;
        let end = tokio::select! {
            end = self.converse(questions) => end,
            // Nobody listens any more.
            () = out.closed() => return,
            () = passed(deadline) => CallError::Deadline.into_trailers(),
        };
        if let Some(witness) = self.witness.take() {
            witness.end(code_of(&end));
        }
        drop(out.send(Said::End(end)).await);
    }

    /// The status that the stream ends with.
    ///
    /// Whatever its caller does, what is under way is polled: others may wait for it, and its replies must leave the connections that
    /// all calls share. Only reading waits for the caller to read.
    async fn converse(&mut self, questions: Messages<Incoming>) -> HeaderMap {
        let (predictor, opening, out) = (Arc::clone(&self.predictor), self.opening.clone(), self.out.clone());
        let read = |questions| Box::pin(next(Arc::clone(&predictor), opening.clone(), questions));
        let mut reading = Some(read(questions));
        // The reader, while it rests.
        let mut resting = None;
        let mut ending = None;
        loop {
            if self.has_room()
                && let Some(questions) = resting.take()
            {
                reading = Some(read(questions));
            }
            if let Some(status) = ending.take_if(|_| self.unsent.is_empty()) {
                return status;
            }
            tokio::select! {
                Ok(place) = out.reserve(), if !self.unsent.is_empty() || resting.is_some() && out.capacity() == 0 => {
                    if let Some(message) = self.unsent.pop_front() {
                        place.send(Said::Message(message));
                    }
                }
                Some(said) = self.answers.next(), if ending.is_none() && !self.answers.is_empty() => match said {
                    Said::Message(message) => self.unsent.push_back(message),
                    Said::End(status) => (ending, reading, resting) = (Some(status), None, None),
                },
                Some((questions, next)) = maybe(reading.as_mut()), if reading.is_some() => {
                    reading = None;
                    match next {
                        Ok(Next::Asks(arrival, model)) => {
                            self.take_up(*arrival, model).await;
                            resting = Some(questions);
                        }
                        Ok(Next::Refused(error)) => {
                            self.answers.push_back(answered(said(Err(error), Default::default(), false)));
                            resting = Some(questions);
                        }
                        // What is under way is answered; the upstream's stream is told that nothing follows.
                        Ok(Next::End) => {
                            if let Some(decoupled) = &mut self.decoupled {
                                decoupled.is_last = true;
                            }
                        }
                        // As the model server: what was asked before is answered before the stream ends.
                        Err(error) => self.answers.push_back(answered(Said::End(error.into_trailers()))),
                    }
                }
                Some(()) = maybe(self.decoupled.as_mut().map(Decoupled::ask)), if self.has_decoupled_question() => {}
                Some(status) = maybe(self.responses.as_mut()), if ending.is_none() && self.responses.is_some() => {
                    (self.decoupled, self.responses) = (None, None);
                    if status.get("grpc-status").is_none_or(|status| status != "0") {
                        (ending, reading, resting) = (Some(status), None, None);
                    }
                }
                else => return ok(),
            }
        }
    }

    /// Whether another question may be read: few are under way, and the caller takes what it is told.
    fn has_room(&self) -> bool {
        self.answers.len() < OUTSTANDING
            && self.unsent.is_empty()
            && self.out.capacity() > 0
            && !self.has_decoupled_question()
    }

    fn has_decoupled_question(&self) -> bool {
        self.decoupled.as_ref().is_some_and(Decoupled::has_question)
    }

    /// Sees to it that a question is answered.
    async fn take_up(&mut self, arrival: Arrival, model: Result<Arc<Model>, Unknown>) {
        if let Ok(model) = &model
            && model.signature.decoupled
        {
            let (frame, id) = (Arc::clone(&arrival.call.frame), arrival.message.id().to_owned());
            if let Err(refusal) = self.predictor.watch(arrival, model).await {
                let refused = said(Err(refusal), (id, model.name.to_string()), false);
                self.answers.push_back(answered(refused));
                return;
            }
            let decoupled = self.decoupled.get_or_insert_with(|| {
                let (lane, out) = (Arc::clone(&self.lane), self.out.clone());
                let (asked, responses) = Decoupled::open(&self.predictor, lane, &self.opening, out);
                self.responses = Some(responses);
                asked
            });
            decoupled.question = Some(frame);
            return;
        }
        let turn = model.as_ref().is_ok_and(|model| model.signature.stateful).then(|| {
            let (done, next) = oneshot::channel();
            (self.turn.replace(next), done)
        });
        let (predictor, grpc_errors) = (Arc::clone(&self.predictor), self.grpc_errors);
        self.answers.push_back(Box::pin(async move {
            let _done = match turn {
                None => None,
                Some((before, done)) => {
                    if let Some(before) = before {
                        drop(before.await);
                    }
                    Some(done)
                }
            };
            let asks = (arrival.message.id().to_owned(), arrival.message.asks().name);
            let limit = arrival.call.live.config.limits.message_bytes;
            let answer = match predictor.answer(arrival, model).await {
                // Replies on a stream are never compressed.
                Ok(reply) => reply.plain(limit).await.map_err(CallError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = &answer {
                predictor.telemetry.metrics.rejected(error.outcome().1);
            }
            said(answer, asks, grpc_errors)
        }));
    }
}

/// An answer that is there already.
fn answered(said: Said) -> Answering {
    Box::pin(std::future::ready(said))
}

/// Reads on; gives the reader back for the next time.
async fn next<S: Store>(
    predictor: Arc<Predictor<S>>,
    opening: Opening,
    mut questions: Messages<Incoming>,
) -> (Messages<Incoming>, Result<Next, CallError>) {
    let next = async {
        let Some(frame) = questions.next(opening.intake()).await? else { return Ok(Next::End) };
        let opened = match predictor.open(&opening, frame).await {
            // Its bytes were read, so the stream goes on behind it.
            Err(error @ CallError::Frame(FrameError::NoBudget)) => return Ok(Next::Refused(error)),
            opened => opened?,
        };
        match opened {
            Opened::Asks(arrival) => {
                let model = predictor.model(&arrival).await;
                Ok(Next::Asks(Box::new(arrival), model))
            }
            Opened::Unparsable(call, refusal) => {
                match predictor.let_upstream_refuse_apart(&call, refusal.into()).await {
                    // Triton stops reading there without a word.
                    Ok(_) => Ok(Next::End),
                    Err(refusal) => Ok(Next::Refused(refusal)),
                }
            }
        }
    };
    let next = next.await;
    (questions, next)
}

/// An answer to the request of this id and model, as it is said on a stream.
fn said(answer: Result<Reply, CallError>, (id, model): (String, String), grpc_errors: bool) -> Said {
    let message = match answer {
        Ok(reply) if reply.is_ok() => stream::response(&reply.payload()),
        // The deadline is that of the whole stream, and the model server may be the first to see it pass.
        Ok(reply) if reply.code() == Code::DeadlineExceeded => return Said::End(reply.into_status()),
        Ok(reply) if reply.of_model && grpc_errors => return Said::End(reply.into_status()),
        Ok(reply) => stream::error(&reply.message(), &id, reply.of_model.then_some(&model)),
        Err(error @ CallError::Upstream(_)) => return Said::End(error.into_trailers()),
        Err(error) => stream::error(&error.message(), &id, None),
    };
    Said::Message(frame::wrap(&message))
}

impl Decoupled {
    /// Opens a stream to the upstream over `lane`; its responses are written to `out` as they come.
    fn open<S: Store>(
        predictor: &Predictor<S>,
        lane: Arc<Lane>,
        opening: &Opening,
        out: mpsc::Sender<Said>,
    ) -> (Self, Responses) {
        let (questions, body) = body::channel(1);
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = opening.head.method.clone();
        head.uri = opening.head.uri.clone();
        head.headers = opening.head.headers.clone();
        // Triton 2.51 dies of an error under this header while another request of the stream is under way.
        let grpc_errors = head.headers.remove(GRPC_ERRORS).is_some_and(|value| value == "true");
        let limit = opening.live.config.limits.message_bytes;
        let (telemetry, address) = (&predictor.telemetry, predictor.upstream.address());
        let method = STREAM.trim_start_matches('/');
        let asking = Asking::begin(telemetry, opening.trace.as_ref(), method, address, &mut head.headers);
        let request = Request::from_parts(head, body);
        let responses: Responses = Box::pin(async move {
            let status = match lane.send(request).await {
                Ok(response) => relay(response, limit, grpc_errors, out).await,
                Err(error) => CallError::from(error).into_trailers(),
            };
            asking.end(code_of(&status));
            status
        });
        (Self { questions: Some(questions), question: None, is_last: false }, responses)
    }

    /// Whether there is something to tell the upstream.
    fn has_question(&self) -> bool {
        self.question.is_some() || self.is_last && self.questions.is_some()
    }

    /// Sends the next question as soon as the upstream takes it, or says that there is none.
    async fn ask(&mut self) {
        if let (Some(questions), Some(_)) = (&self.questions, &self.question) {
            // A stream that the upstream has ended says so by its status.
            if let Ok(place) = questions.reserve().await
                && let Some(question) = &self.question
            {
                place.send(HttpFrame::data(question.bytes.clone()));
            }
        }
        self.question = None;
        if self.is_last {
            self.questions = None;
        }
    }
}

/// Writes every message of a response to `out`; the status that it ends with.
///
/// Where errors of the model are to end the stream they do, as INTERNAL: a stream does not say which error it was.
async fn relay(
    response: Response<Incoming>,
    limit: usize,
    grpc_errors: bool,
    out: mpsc::Sender<Said>,
) -> HeaderMap {
    let (head, body) = response.into_parts();
    if head.headers.contains_key("grpc-status") {
        return only_status(&head.headers);
    }
    let mut messages = Messages::new(body);
    loop {
        match messages.next(Intake::unlimited(limit)).await {
            Ok(Some(frame)) => {
                let error =
                    grpc_errors.then(|| stream::error_of_model(&frame.bytes[frame::PREFIX..])).flatten();
                if let Some(error) = error {
                    return status(Code::Internal, &error);
                }
                drop(out.send(Said::Message(frame.bytes)).await);
            }
            Ok(None) => return messages.trailers.map_or_else(broken, |trailers| only_status(&trailers)),
            Err(_) => return broken(),
        }
    }
}

/// The status of a stream whose end is missing.
fn broken() -> HeaderMap {
    CallError::from(UpstreamError::Broken("the stream ended without a status".into())).into_trailers()
}

fn only_status(headers: &HeaderMap) -> HeaderMap {
    let mut status = headers.clone();
    status.remove(CONTENT_TYPE);
    status
}

fn ok() -> HeaderMap {
    status(Code::Ok, "")
}

/// Ends when `deadline` has passed; never where there is none.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What the future comes to, where there is one.
async fn maybe<F: Future>(future: Option<F>) -> Option<F::Output> {
    match future {
        Some(future) => Some(future.await),
        None => None,
    }
}

/// The replies as a body: the first, those that follow, and the status.
struct Replies {
    first: Option<Bytes>,
    next: mpsc::Receiver<Said>,
    ended: bool,
}

impl HttpBody for Replies {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<HttpFrame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(HttpFrame::data(first))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.next.poll_recv(context)) {
            Some(Said::Message(message)) => HttpFrame::data(message),
            Some(Said::End(status)) => {
                self.ended = true;
                HttpFrame::trailers(status)
            }
            // A fault of ours ended the conversation; its caller still gets a status.
            None => {
                self.ended = true;
                HttpFrame::trailers(CallError::Panicked.into_trailers())
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

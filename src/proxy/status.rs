//! The one place where an error becomes a gRPC status, a metric label and a side to blame.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tonic::Code;

use super::body::{self, Body};
use super::frame::{FrameError, InflateError};
use super::upstream::UpstreamError;
use crate::protocol::answer::AnswerError;
use crate::protocol::query::Refusal;
use crate::session::CallerError;

/// Everything that ends a call without a reply of the model server's.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// A known method that is closed.
    #[error("{0} is closed")]
    Closed(String),
    /// A method that nobody here knows.
    #[error("unknown method")]
    Unknown,
    /// Nobody to remember by.
    #[error(transparent)]
    Caller(#[from] CallerError),
    /// No message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message in an encoding that we do not open.
    #[error("the message is in an encoding that is not supported")]
    Encoding,
    /// A message that does not open.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// A request that is not judged.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A near-copy that may not be answered from memory.
    #[error("too many requests")]
    Suspected,
    /// A replay that cannot be given now, and must not be replaced by a fresh answer.
    #[error("too many requests")]
    Overloaded,
    /// The caller's deadline passed.
    #[error("Deadline Exceeded")]
    Deadline,
    /// No upstream.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The operator's `image_input` is no input of the model.
    #[error("model '{0}' is not configured")]
    Misconfigured(String),
    /// A fault of ours.
    #[error("internal error")]
    Panicked,
    /// Answers that do not make a reply.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// What gRPC writes with a percent sign: not the space, which tonic's own `Status` would escape and a model server does not.
const ESCAPED: AsciiSet = CONTROLS.add(b'%');

/// The longest message that a caller is sent, in bytes before escaping: much of it may be the caller's own words.
const LONGEST: usize = 1024;

fn written(message: &str) -> HeaderValue {
    let message = &message[..message.floor_char_boundary(LONGEST)];
    let text = utf8_percent_encode(message, &ESCAPED).to_string();
    HeaderValue::try_from(text).expect("escaped text is visible ASCII and spaces")
}

/// A status as gRPC writes it; an empty message is left out.
pub(super) fn status(code: Code, message: &str) -> HeaderMap {
    let mut status = HeaderMap::new();
    status.insert("grpc-status", HeaderValue::from(code as i32));
    if !message.is_empty() {
        status.insert("grpc-message", written(message));
    }
    status
}

/// The name of a status code, as gRPC writes it.
pub(super) fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The code in a status as gRPC writes it; UNKNOWN where there is none.
pub(super) fn code_of(status: &HeaderMap) -> Code {
    status.get("grpc-status").map_or(Code::Unknown, |code| Code::from_bytes(code.as_bytes()))
}

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The caller's request.
    Caller,
    /// The model server.
    Upstream,
    /// We.
    Ours,
}

impl CallError {
    /// Status code, label for logs and metrics, side.
    pub(super) fn outcome(&self) -> (Code, &'static str, Side) {
        match self {
            Self::Closed(_) => (Code::PermissionDenied, "closed_method", Side::Caller),
            Self::Unknown => (Code::Unimplemented, "unknown_method", Side::Caller),
            Self::Caller(CallerError::Twice) => (Code::InvalidArgument, "identity_twice", Side::Caller),
            Self::Caller(CallerError::Required) => (Code::Unauthenticated, "identity_required", Side::Caller),
            Self::Frame(FrameError::TooLarge { .. }) | Self::Inflate(InflateError::TooLarge(_)) => {
                (Code::ResourceExhausted, "message_too_large", Side::Caller)
            }
            Self::Frame(FrameError::NoBudget) | Self::Inflate(InflateError::NoBudget) => {
                (Code::ResourceExhausted, "byte_budget", Side::Ours)
            }
            Self::Frame(FrameError::Slow(_)) => (Code::DeadlineExceeded, "slow_request", Side::Caller),
            Self::Frame(FrameError::Broken(_)) => (Code::Cancelled, "broken_request", Side::Caller),
            Self::Frame(
                FrameError::Nothing(_)
                | FrameError::Truncated { .. }
                | FrameError::More
                | FrameError::Flag(_),
            ) => (Code::Internal, "malformed_frame", Side::Caller),
            Self::Encoding => (Code::Unimplemented, "unknown_encoding", Side::Caller),
            Self::Inflate(_) => (Code::Internal, "malformed_compression", Side::Caller),
            Self::Refused(Refusal::Malformed(_)) => (Code::InvalidArgument, "malformed", Side::Caller),
            Self::Refused(Refusal::Dangerous(_)) => (Code::InvalidArgument, "dangerous_shape", Side::Caller),
            Self::Refused(Refusal::SharedMemory(_)) => (Code::NotFound, "shared_memory", Side::Caller),
            Self::Refused(Refusal::Unreadable { .. } | Refusal::Text) => {
                (Code::InvalidArgument, "unreadable", Side::Caller)
            }
            Self::Suspected => (Code::ResourceExhausted, "suspected", Side::Caller),
            Self::Overloaded => (Code::ResourceExhausted, "overloaded", Side::Ours),
            Self::Deadline => (Code::DeadlineExceeded, "deadline", Side::Caller),
            Self::Upstream(UpstreamError::Down(_)) => (Code::Unavailable, "upstream_down", Side::Upstream),
            Self::Upstream(UpstreamError::Broken(_)) => {
                (Code::Unavailable, "upstream_broken", Side::Upstream)
            }
            Self::Upstream(UpstreamError::Reply(_)) => (Code::Internal, "upstream_reply", Side::Upstream),
            Self::Misconfigured(_) => (Code::FailedPrecondition, "misconfigured", Side::Ours),
            Self::Panicked => (Code::Internal, "panicked", Side::Ours),
            Self::Answer(_) => (Code::Internal, "unassembled", Side::Ours),
        }
    }

    /// What the caller is told; like the model server's own errors it is all trailers.
    pub(super) fn into_response(self) -> Response<Body> {
        let is_unknown_encoding = matches!(self, Self::Encoding);
        let mut response = Response::new(body::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.extend(self.into_trailers());
        if is_unknown_encoding {
            headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity, deflate, gzip"));
        }
        response
    }

    /// The status and its message, as they stand behind a stream's replies.
    pub(super) fn into_trailers(self) -> HeaderMap {
        let (code, label, side) = self.outcome();
        tracing::debug!(error = %self, label, ?side, "call refused");
        status(code, &self.message())
    }

    /// What the caller is told in words.
    pub(super) fn message(&self) -> String {
        match self {
            // The server says nothing about methods that it does not know.
            Self::Unknown => String::new(),
            // Which address and which socket error is the operator's business.
            Self::Upstream(UpstreamError::Down(_)) => "failed to connect to the model server".to_owned(),
            Self::Upstream(_) => "the call to the model server broke".to_owned(),
            other => other.to_string(),
        }
    }
}

//! What an OK reply of the upstream looks like around its message, so that a replayed one looks the same.

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Response};
use std::sync::Arc;

use super::body::{self, Body};
use super::upstream::Reply;

/// Headers and trailers of the upstream's latest OK reply to a Predict call.
pub(super) struct Template {
    latest: ArcSwap<(HeaderMap, HeaderMap)>,
}

impl Default for Template {
    /// What every gRPC server sends; used by nobody, since a replay follows a forward.
    fn default() -> Self {
        let headers = HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        )]);
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        Self { latest: ArcSwap::from_pointee((headers, trailers)) }
    }
}

impl Template {
    /// Takes over what `reply`, an OK one, looks like.
    pub(super) fn learn(&self, reply: &Reply) {
        let known = self.latest.load();
        if known.0 != reply.headers || known.1 != reply.trailers {
            self.latest.store(Arc::new((reply.headers.clone(), reply.trailers.clone())));
        }
    }

    /// An OK reply with `frame` as its message.
    pub(super) fn reply(&self, frame: Bytes) -> Response<Body> {
        let latest = self.latest.load();
        let mut headers = latest.0.clone();
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(frame.len()));
        }
        let mut response = Response::new(body::message(frame, Some(latest.1.clone())));
        *response.headers_mut() = headers;
        response
    }
}

//! What an OK reply of the upstream looks like around its message, so that a replayed one looks the same.

use std::collections::HashSet;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;

use super::frame::Frame;
use super::upstream::Reply;

/// Headers and trailers that the upstream's OK replies to Predict calls have in common, as far as the last two show. What varies
/// from reply to reply (a request's id, a duration) belongs to one caller's reply and must not be in another's.
pub(super) struct Template {
    latest: ArcSwap<Around>,
}

/// What stands around a message.
#[derive(Clone)]
struct Around {
    headers: HeaderMap,
    trailers: HeaderMap,
    /// Names whose values were seen to vary.
    varying: HashSet<HeaderName>,
    /// Seen on a reply to a Predict call; before that, on any other reply at best.
    seen: bool,
}

/// Names remembered as varying; the upstream is ours, so there are few.
const MOST_VARYING: usize = 64;

impl Default for Template {
    /// What every gRPC server sends.
    fn default() -> Self {
        let headers = HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        )]);
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        Self {
            latest: ArcSwap::from_pointee(Around { headers, trailers, varying: HashSet::new(), seen: false }),
        }
    }
}

impl Template {
    /// Takes over what `reply`, an OK one to another call, looks like, as long as none to a Predict call was seen.
    pub(super) fn guess(&self, reply: &Reply) {
        if !self.latest.load().seen {
            let (headers, trailers) = (reply.headers.clone(), reply.trailers.clone());
            self.latest.store(Arc::new(Around { headers, trailers, varying: HashSet::new(), seen: false }));
        }
    }

    /// Takes over what `reply`, an OK one to a Predict call, looks like.
    pub(super) fn learn(&self, reply: &Reply) {
        let known = self.latest.load();
        if known.seen && known.headers == reply.headers && known.trailers == reply.trailers {
            return;
        }
        let mut varying = known.varying.clone();
        for (before, now) in [(&known.headers, &reply.headers), (&known.trailers, &reply.trailers)] {
            // A length varies with its message, and is written anew for each.
            let differs = |name: &&HeaderName| {
                known.seen
                    && **name != CONTENT_LENGTH
                    && before.contains_key(*name)
                    && before.get(*name) != now.get(*name)
            };
            varying.extend(now.keys().filter(differs).take(MOST_VARYING).cloned());
        }
        self.latest.store(Arc::new(Around {
            headers: without(&reply.headers, &varying),
            trailers: without(&reply.trailers, &varying),
            varying,
            seen: true,
        }));
    }

    /// The headers of an OK reply.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = self.latest.load().headers.clone();
        headers.remove(CONTENT_LENGTH);
        headers
    }

    /// An OK reply with `frame` as its message.
    pub(super) fn reply(&self, frame: Bytes) -> Reply {
        let latest = self.latest.load();
        let mut headers = latest.headers.clone();
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(frame.len()));
        }
        Reply {
            headers,
            frame: Some(Frame::plain(frame)),
            trailers: latest.trailers.clone(),
            status: StatusCode::OK,
            of_model: true,
        }
    }
}

fn without(headers: &HeaderMap, varying: &HashSet<HeaderName>) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| !varying.contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

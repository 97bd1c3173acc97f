//! What stands around the message of an OK reply: the same whether the model was asked or not.

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;

use super::frame::Frame;
use super::upstream::Reply;

/// Headers and trailers that all of the upstream's OK replies to Predict calls had in common so far, in their order.
///
/// Nothing else goes on to callers. What varies from reply to reply (a date, a request's id, a duration, what only some replies carry)
/// belongs to one call: on another's reply it would be stale, and where it were missing, that would tell a replay. So it is left
/// out on both paths. To write it anew would need to know what it means.
pub(super) struct Template {
    common: ArcSwap<Around>,
}

/// What stands around a message.
struct Around {
    headers: HeaderMap,
    trailers: HeaderMap,
    /// Of replies to Predict calls; before the first, of any other reply at best.
    seen: bool,
}

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
        Self { common: ArcSwap::from_pointee(Around { headers, trailers, seen: false }) }
    }
}

impl Template {
    /// Takes over what `reply`, an OK one to another call, looks like, as long as none to a Predict call was seen.
    pub(super) fn guess(&self, reply: &Reply) {
        if !self.common.load().seen {
            let (headers, trailers) = (reply.headers.clone(), reply.trailers.clone());
            self.common.store(Arc::new(Around { headers, trailers, seen: false }));
        }
    }

    /// Learns from `reply`, an OK one to a Predict call, what such replies have in common.
    pub(super) fn learn(&self, reply: &Reply) {
        self.common.rcu(|known| {
            let (headers, trailers) = (&reply.headers, &reply.trailers);
            if !known.seen {
                return Arc::new(Around { headers: headers.clone(), trailers: trailers.clone(), seen: true });
            }
            if in_common(&known.headers, headers) && in_common(&known.trailers, trailers) {
                return Arc::clone(known);
            }
            Arc::new(Around {
                headers: common(&known.headers, headers),
                trailers: common(&known.trailers, trailers),
                seen: true,
            })
        });
    }

    /// The headers of an OK reply.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = self.common.load().headers.clone();
        headers.remove(CONTENT_LENGTH);
        headers
    }

    /// An OK reply with `frame` as its message.
    pub(super) fn reply(&self, frame: Bytes) -> Reply {
        let common = self.common.load();
        let mut headers = common.headers.clone();
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(frame.len()));
        }
        Reply {
            headers,
            frame: Some(Frame::plain(frame)),
            trailers: common.trailers.clone(),
            status: StatusCode::OK,
            of_model: true,
        }
    }
}

/// Whether `name` stands in both with the same values.
fn is_common(name: &HeaderName, known: &HeaderMap, now: &HeaderMap) -> bool {
    // A length varies with its message, and is written anew for each. Without a type no client reads the reply.
    match *name {
        CONTENT_LENGTH => now.contains_key(name),
        http::header::CONTENT_TYPE => true,
        _ => known.get_all(name).iter().eq(now.get_all(name)),
    }
}

fn in_common(known: &HeaderMap, now: &HeaderMap) -> bool {
    known.keys().all(|name| is_common(name, known, now))
}

fn common(known: &HeaderMap, now: &HeaderMap) -> HeaderMap {
    known
        .iter()
        .filter(|(name, _)| is_common(name, known, now))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

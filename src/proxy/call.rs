//! One call whose request has arrived: who asks, under which settings, until when.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::frame::{Encoding, Frame, Intake};
use super::listen::Peer;
use super::live::Live;
use super::own::OwnLanes;
use super::status::CallError;
use super::witness::Noted;
use crate::config::Config;
use crate::protocol::Rpc;
use crate::session::{Caller, Facts, Values};
use crate::telemetry::Trace;

/// What is known of a call before its message is read, and, on a stream, what its messages share.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) live: Arc<Live>,
    pub(super) rpc: Rpc,
    pub(super) head: Arc<Parts>,
    pub(super) encoding: Encoding,
    pub(super) caller: Caller,
    pub(super) deadline: Option<Instant>,
    /// Its connection's own way to the model server.
    pub(super) lanes: Arc<OwnLanes>,
    /// What the operator is told of it.
    pub(super) trace: Option<Arc<Trace>>,
    /// It brings one message after another.
    pub(super) streams: bool,
}

/// A message that asks a model, and all that its call says besides.
pub(super) struct Call {
    pub(super) opening: Opening,
    pub(super) frame: Arc<Frame>,
    /// When the message was whole.
    pub(super) arrived: Instant,
    /// What is noted of this message.
    pub(super) noted: Noted,
}

impl std::ops::Deref for Call {
    type Target = Opening;

    fn deref(&self) -> &Opening {
        &self.opening
    }
}

impl Opening {
    /// Identifies the caller; refuses an identity that comes twice and an encoding that we do not open.
    pub(super) fn new(
        live: Arc<Live>,
        rpc: Rpc,
        head: Parts,
        peer: &Peer,
        lanes: &Arc<OwnLanes>,
        trace: Option<Arc<Trace>>,
    ) -> Result<Self, CallError> {
        let caller = live.callers.identify(facts(&live.config, &head.headers, peer))?;
        let encoding = Encoding::of(&head.headers).ok_or(CallError::Encoding)?;
        let deadline = deadline_of(&head.headers);
        let (head, lanes, streams) = (Arc::new(head), Arc::clone(lanes), false);
        Ok(Self { live, rpc, head, encoding, caller, deadline, lanes, trace, streams })
    }

    /// The bounds within which one message is read, out of this caller's budget.
    pub(super) fn intake(&self) -> Intake<'_> {
        let limits = &self.live.config.limits;
        Intake {
            limit: limits.message_bytes,
            within: limits.read_within,
            budget: Some((&self.live.bytes, self.caller.digest.0)),
        }
    }
}

/// Whether the peer is one whose word is believed, by its certificate or its address.
pub(super) fn is_trusted(config: &Config, peer: &Peer) -> bool {
    match (&peer.certified, peer.address) {
        (Some(name), _) => config.caller.trusted_certificates.iter().any(|trusted| **trusted == **name),
        (None, Some(address)) => config.caller.trusted_peers.iter().any(|peers| peers.contains(&address)),
        (None, None) => false,
    }
}

/// What `peer` and `headers` say of who asks.
fn facts<'a>(config: &Config, headers: &'a HeaderMap, peer: &'a Peer) -> Facts<'a> {
    let values = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Values::None,
            (Some(value), None) => Values::One(value.as_bytes()),
            _ => Values::Many,
        }
    };
    Facts {
        certified: peer.certified.as_deref(),
        address: peer.address,
        metadata: config.caller.metadata.as_ref().map(values).unwrap_or_default(),
        authorization: values(&http::header::AUTHORIZATION),
    }
}

/// Whether `value` is a `grpc-timeout` that a model server can read.
pub(super) fn is_a_timeout(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| timeout_of(text).is_some())
}

/// The moment at which the caller gives up, by its `grpc-timeout`; the last value counts, as in gRPC's own server.
pub(super) fn deadline_of(headers: &HeaderMap) -> Option<Instant> {
    let value: &HeaderValue = headers.get_all("grpc-timeout").iter().next_back()?;
    Instant::now().checked_add(timeout_of(value.to_str().ok()?)?)
}

/// A time as gRPC's own server reads it, spaces around it and before its unit included; beyond a thousand million of any unit it
/// is no limit at all, which no clock reaches.
fn timeout_of(text: &str) -> Option<Duration> {
    let text = text.trim_matches(' ');
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let digits = digits.trim_end_matches(' ');
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().unwrap_or(u64::MAX);
    let of = match unit {
        "H" => Duration::from_hours,
        "M" => Duration::from_mins,
        "S" => Duration::from_secs,
        "m" => Duration::from_millis,
        "u" => Duration::from_micros,
        "n" => Duration::from_nanos,
        _ => return None,
    };
    Some(if amount <= 1_000_000_000 { of(amount) } else { Duration::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(values: &[&'static str]) -> Option<Duration> {
        let name = HeaderName::from_static("grpc-timeout");
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        deadline_of(&headers).map(|deadline| deadline.duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_read_in_every_unit() {
        for (written, duration) in [
            ("1H", Duration::from_hours(1)),
            ("2M", Duration::from_mins(2)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0S", Duration::ZERO),
            ("00000007S", Duration::from_secs(7)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("100000000n", Duration::from_millis(100)),
            ("1000000000u", Duration::from_secs(1000)),
            (" 25 m ", Duration::from_millis(25)),
            ("000000000000000000005S", Duration::from_secs(5)),
        ] {
            assert_eq!(left(&[written]), Some(duration), "{written}");
        }
        assert_eq!(left(&["1S", "2S"]), Some(Duration::from_secs(2)), "the last value counts");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_deadline_sets_none() {
        for written in [
            "",
            " ",
            "S",
            " S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "1 1S",
            "1000000001n",
            "99999999999999999999n",
            "1SS",
            "soon",
        ] {
            assert_eq!(left(&[written]), None, "{written:?}");
        }
        assert_eq!(left(&[]), None);
        assert!(left(&["99999999H"]).is_none_or(|left| left > Duration::from_hours(1_000_000)));
    }
}

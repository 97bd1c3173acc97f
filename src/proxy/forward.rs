//! One call on its way to the upstream, and how long it goes on when its caller does not.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::body::{self, Body};
use super::predict::Call;

/// A request to the upstream: the caller's head, and the caller's frame or another in its place.
pub(super) struct Forward {
    head: Parts,
    frame: Bytes,
    /// When the caller's request had arrived.
    pub(super) arrived: Instant,
}

/// A call that went on at once carries the caller's deadline as it was written; one that waited longer than this, the remainder.
const AT_ONCE: Duration = Duration::from_millis(1);

impl Forward {
    /// `call` with `frame` in place of its own where one is given.
    pub(super) fn new(call: &Call, frame: Option<Bytes>) -> Self {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = call.head.method.clone();
        head.uri = call.head.uri.clone();
        head.headers = call.head.headers.clone();
        if frame.is_some() {
            head.headers.remove(http::header::CONTENT_LENGTH);
        }
        if let Some(deadline) = call.deadline.filter(|_| call.arrived.elapsed() > AT_ONCE) {
            let left = deadline.saturating_duration_since(Instant::now());
            let left =
                HeaderValue::from_str(&timeout_value(left)).expect("digits and a unit are a header value");
            head.headers.insert("grpc-timeout", left);
        }
        Self { head, frame: frame.unwrap_or_else(|| call.frame.bytes.clone()), arrived: call.arrived }
    }

    /// The request to send.
    pub(super) fn into_request(self) -> Request<Body> {
        Request::from_parts(self.head, body::message(self.frame, None))
    }
}

/// A gRPC timeout has eight digits at most, so the unit grows with the time.
fn timeout_value(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    if left.as_nanos() <= MOST {
        format!("{}n", left.as_nanos())
    } else if left.as_micros() <= MOST {
        format!("{}u", left.as_micros())
    } else if left.as_millis() <= MOST {
        format!("{}m", left.as_millis())
    } else {
        format!("{}S", u128::from(left.as_secs()).min(MOST))
    }
}

/// Runs `work` to its end, or, once nobody waits for it any more, for at most `linger`.
///
/// None where the work panicked.
pub(super) async fn lingering<T: Send + 'static>(
    linger: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (mut done, outcome) = oneshot::channel();
    tokio::spawn(async move {
        let mut work = std::pin::pin!(work);
        let finished = tokio::select! {
            finished = &mut work => finished,
            () = done.closed() => {
                let _ = tokio::time::timeout(linger, work).await;
                return;
            }
        };
        let _ = done.send(finished);
    });
    outcome.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_written_in_eight_digits() {
        for (left, text) in [
            (Duration::from_nanos(5), "5n"),
            (Duration::from_millis(99), "99000000n"),
            (Duration::from_millis(100), "100000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
        ] {
            assert_eq!(timeout_value(left), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_work_goes_on_for_its_linger_and_no_longer() {
        for (needs, is_done) in [(4, true), (6, false)] {
            let (tell, told) = oneshot::channel();
            let work = lingering(Duration::from_secs(5), async move {
                tokio::time::sleep(Duration::from_secs(needs)).await;
                tell.send(()).unwrap();
            });
            tokio::select! {
                biased;
                _ = work => unreachable!("the work takes seconds"),
                () = tokio::task::yield_now() => {}
            }
            assert_eq!(told.await.is_ok(), is_done);
        }
    }
}

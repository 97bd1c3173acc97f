//! Every call that is let through without being read: bytes on and bytes back, streams and trailers included.

use http::{Request, Response};
use hyper::body::Incoming;

use super::body::{self, Body};
use super::lane::Lane;
use super::upstream::UpstreamError;

/// Relays one call over `lane`; dropping the returned future, or the body of the reply, cancels it upstream.
pub(super) async fn relay(lane: &Lane, request: Request<Incoming>) -> Result<Response<Body>, UpstreamError> {
    let response = lane.send(request.map(body::relay)).await?;
    Ok(response.map(body::relay_reply))
}

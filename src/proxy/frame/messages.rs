//! The messages of a stream, one after the other.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use super::{Frame, FrameError, Gathered, Intake, PREFIX, apart};
use crate::proxy::body::BoxError;

/// A body as messages. What has arrived beyond one message waits for the next.
pub(in crate::proxy) struct Messages<B> {
    body: B,
    rest: Bytes,
    /// What came after the last message of a reply.
    pub(in crate::proxy) trailers: Option<HeaderMap>,
}

impl<B> Messages<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(in crate::proxy) fn new(body: B) -> Self {
        Self { body, rest: Bytes::new(), trailers: None }
    }

    /// The next message; none at the end of the stream. Like Triton, what is left there of a message that is not whole is ignored.
    ///
    /// Between messages a stream may rest as long as it likes; a message that has begun must arrive within its time, in which
    /// it also waits for room in the budget.
    pub(in crate::proxy) async fn next(&mut self, intake: Intake<'_>) -> Result<Option<Frame>, FrameError> {
        let mut gathered = Gathered::default();
        gathered.push(std::mem::take(&mut self.rest));
        while gathered.len() < PREFIX {
            let Some(data) = self.data().await? else { return Ok(None) };
            gathered.push(data);
        }
        let within = intake.within;
        let whole = self.finish(gathered, intake);
        tokio::time::timeout(within, whole).await.map_err(|_| FrameError::Slow(within))?
    }

    async fn finish(
        &mut self,
        mut gathered: Gathered,
        intake: Intake<'_>,
    ) -> Result<Option<Frame>, FrameError> {
        let (declared, limit) = (gathered.declared()?, intake.limit);
        if declared > limit {
            return Err(FrameError::TooLarge { declared, limit });
        }
        let permit = match intake.budget {
            Some((quota, caller)) => {
                Some(quota.take_in_time(caller, declared).await.ok_or(FrameError::NoBudget)?)
            }
            None => None,
        };
        let wanted = PREFIX + declared;
        while gathered.len() < wanted {
            gathered.expect(wanted);
            let Some(data) = self.data().await? else { return Ok(None) };
            gathered.push(data);
        }
        let (bytes, rest) = apart(gathered.into_bytes(), wanted);
        self.rest = rest;
        Ok(Some(Frame { bytes, trailers: None, permit }))
    }

    async fn data(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(FrameError::Broken(error.into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }
}

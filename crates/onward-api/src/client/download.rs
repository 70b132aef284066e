//! Long answers, read as they arrive.

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;

use super::{Body, IDLE_MAX, Problem, within};
use crate::{Code, Effect};

/// A long answer on its way.
#[derive(Debug)]
pub struct Download {
    headers: HeaderMap,
    body: Body,
    /// What is still to come, if the server said so.
    left: Option<u64>,
}

impl Download {
    pub(super) fn new(headers: HeaderMap, body: Body) -> Self {
        let left = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { headers, body, left }
    }

    /// Returns a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns how many bytes are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Waits for the next piece; `None` at the end of a whole answer.
    ///
    /// # Errors
    /// [`Code::Unavailable`]: the answer was cut off, or the server fell silent; what came is not whole.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let cut = |why: &str| Problem::of(Code::Unavailable, Effect::NotApplied, format!("the answer was cut off: {why}"));
        loop {
            match within(IDLE_MAX, self.body.frame()).await {
                None => return Err(cut("the server fell silent")),
                Some(None) if self.left.is_some_and(|left| left > 0) => return Err(cut("it is shorter than was said")),
                Some(None) => return Ok(None),
                Some(Some(Err(e))) => return Err(cut(&e.to_string())),
                Some(Some(Ok(frame))) => {
                    if let Ok(piece) = frame.into_data() {
                        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}

//! Long answers, read as they arrive.

use bytes::Bytes;
use http_body_util::BodyExt as _;

use super::{Body, IDLE_MAX, Problem, within};
use crate::{Code, Effect};

/// An answer in pieces.
#[derive(Debug)]
pub struct Pieces(Body);

impl Pieces {
    pub(super) fn new(body: Body) -> Self {
        Self(body)
    }

    /// Waits for the next piece; `None` behind the last.
    ///
    /// # Errors
    /// [`Code::Unavailable`]: the answer was cut off, or nothing came for long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let cut = |why: &str| Problem::of(Code::Unavailable, Effect::NotApplied, format!("the answer was cut off: {why}"));
        loop {
            match within(IDLE_MAX, self.0.frame()).await {
                None => return Err(cut("the server fell silent")),
                Some(None) => return Ok(None),
                Some(Some(Err(e))) => return Err(cut(&e.to_string())),
                Some(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

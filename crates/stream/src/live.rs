//! A running stream as those see it who serve it: whatever its records come from, it has a model, histories and a health.
//!
//! What only the embedded log can do (taking events in, erasing, backups) is asked of [`LiveStream::embedded`]; a stream
//! that reads from elsewhere says there where the same is done instead.

use std::fmt::Debug;
use std::sync::Arc;

use crate::crew::Failed;
use crate::running::RunningStream;
use crate::shared::Shared;

/// A running stream.
pub trait LiveStream: Send + Sync + Debug {
    /// State, model, health, counts.
    fn shared(&self) -> &Arc<Shared>;

    /// Why the stream stopped by itself, if it did.
    fn failure(&self) -> Option<Failed>;

    /// When the stream that is read was created, milliseconds since 1970.
    fn created_ms(&self) -> i64;

    /// The stream over the embedded log, or where its records come from instead, for people: `the Kinesis stream clicks`.
    fn embedded(&self) -> Result<&RunningStream, &str>;
}

impl LiveStream for RunningStream {
    fn shared(&self) -> &Arc<Shared> {
        Self::shared(self)
    }

    fn failure(&self) -> Option<Failed> {
        Self::failure(self)
    }

    fn created_ms(&self) -> i64 {
        self.state().identity().created_ms
    }

    fn embedded(&self) -> Result<&RunningStream, &str> {
        Ok(self)
    }
}

//! The way out of a notification.

use std::fmt::Debug;

use super::notice::Notification;

/// Why a notification did not go out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It may go out later; nobody knows whether it did already.
    #[error("{0}")]
    Retry(String),
    /// The receiver will never take it.
    #[error("{0}")]
    Refused(String),
}

/// Brings notifications out. A call may repeat one that went out before: receivers drop it by its id.
pub trait Channel: Send + Debug {
    /// Sends one notification; back when the receiver has it. `now_ms` is the time, milliseconds since 1970. Bounded by
    /// a time-out of its own.
    fn send(&mut self, notification: &Notification, now_ms: i64) -> Result<(), SendError>;
}

/// Writes each notification to the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogChannel;

impl Channel for LogChannel {
    fn send(&mut self, notification: &Notification, _now_ms: i64) -> Result<(), SendError> {
        let Notification { id, rule, body, .. } = notification;
        tracing::info!(target: "anabranch::notification", notification = id, rule, body, "a notification");
        Ok(())
    }
}

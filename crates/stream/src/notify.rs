//! Notifications: what is worth telling a user at once, and bringing it out.
//!
//! ```text
//! event joined ─► a rule is triggered ─► outbox (with the history) ─► due ─► decided from the history as it is ─► channel
//! ```
//!
//! | module | what lives there |
//! |---|---|
//! | [`settings`] | the `[notify]` settings, checked and compiled to rules |
//! | [`rule`] | rules: what triggers, and what is decided when it is due; pure |
//! | [`notice`] | what waits in the outbox and what a receiver gets; the id |
//! | [`outbox`] | the port of the outbox, and the embedded one |
//! | [`progress`] | how far the stream is read: the port, and the simple ones |
//! | [`dispatcher`] | due → decide → send → finish, a step at a time |
//! | [`channel`] | the way out: the port, and a log line |
//! | [`webhook`] | a signed POST |
//! | [`counts`] | what became of notices |
//!
//! It promises: a notice is committed with the history that its event changed, or neither is; its id is a function of
//! stream, rule, owner and event, so that a receiver can drop repeats; it goes out at least once or is counted as
//! dropped, by reason, or lies in the dead letters; nothing goes to a forgotten owner.
//!
//! **Time.** When a notice is due follows from its record's arrival, never from a clock, and it is decided only once
//! everything that arrived before is joined: a worker that lags cannot call a cart abandoned whose purchase it has not
//! read. A replay therefore decides as the first run did. The clock says when to look, and what came too late to send.
//!
//! Not here: lists for every event (those are delivered as objects), and templates (the receiver's).

pub mod channel;
pub mod counts;
pub mod dispatcher;
pub mod notice;
pub mod outbox;
pub mod progress;
pub mod rule;
pub mod settings;
pub mod webhook;

pub use channel::{Channel, LogChannel, SendError};
pub use counts::NotifyCounts;
pub use dispatcher::{Dispatcher, DispatcherParts, NotifyError};
pub use notice::{Notice, Notification};
pub use outbox::Outbox;
pub use progress::{AfterAWhile, OwnShards, Progress};
pub use rule::{DropReason, Rule, Rules};
pub use settings::{ChannelKind, NotifySettings, RuleSettings};
pub use webhook::Webhook;

#[cfg(test)]
mod tests;

//! HTTP over a running stream: events come in, lists and explanations go out.
//!
//! | module | what lives there |
//! |---|---|
//! | [`app`] | the routes, what handlers share, limits, and [`serve`] |
//! | [`answers`] | the answers as pure functions of (model, history), for this server and for commands without one |
//! | `kinesis` | the door that speaks AWS's JSON protocol: `PutRecord`, `PutRecords` and what clients ask around them |
//! | `events` | the plain door: `POST /events`, judged at the door |
//! | `questions` | recommendations, explanations, histories |
//! | `observe` | status and health |
//! | `metrics` | `/metrics`, for Prometheus |
//! | `admin` | erasure and backup, behind a token |
//! | `reply` | JSON errors that say what to do, bounded bodies |
//!
//! It promises: an answer that acknowledges an event leaves after the event's sync; no request makes it panic; every
//! body, queue and list has a limit, and reaching one is told with the remedy.
//! It must never do what an event means (`events`) or what a list contains (`models`), and it does no TLS: put a proxy
//! in front where the network is not trusted.

mod admin;
pub mod answers;
pub mod app;
mod events;
#[doc(hidden)]
pub mod fuzzing;
mod kinesis;
mod metrics;
mod observe;
mod questions;
mod reply;

#[cfg(test)]
mod tests;

pub use answers::{ExplainAnswer, HistoryAnswer, RecommendAnswer};
pub use app::{App, router, serve};

//! A process's dispatcher: it sends while the process holds the lease of notifications, and no longer.
//!
//! Whoever looks after the leases renews ([`DispatchLeaseTaker`](crate::kinesis::dispatch_lease)); here is looked before
//! each notice whether the right to send still stands. When it went, a notice that is in hand is written down and nothing
//! else is sent; when it comes, the outbox is read from its beginning. Waiting for a receiver does not keep the lease from
//! being renewed, since another thread does that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_stream::notify::dispatcher::DispatchStep;
use anabranch_stream::notify::{Dispatcher, DispatcherParts, NotifyError};
use anabranch_stream::shared::Shared;

use super::Members;
use crate::kinesis::dispatch_lease::DispatchRight;

/// How often a process that may not send looks whether it may, in milliseconds.
const IDLE_MS: u64 = 500;
/// A dispatcher that ended in an error goes on after this long, in milliseconds.
const AGAIN_MS: u64 = 60_000;
/// How often a waiting dispatcher looks whether the process ends, in milliseconds.
const LOOK_MS: u64 = 100;

/// Sends what is due while it is this process's to do.
#[derive(Debug)]
pub struct Dispatching {
    dispatcher: Dispatcher,
    shared: Arc<Shared>,
    right: Arc<DispatchRight>,
    was_held: bool,
}

impl Dispatching {
    /// Of a process whose right to send `right` tells.
    pub fn new(parts: DispatcherParts, right: Arc<DispatchRight>) -> Self {
        let shared = Arc::clone(&parts.shared);
        Self { dispatcher: Dispatcher::new(parts), shared, right, was_held: false }
    }

    /// Does one thing, as [`Dispatcher::step`].
    pub fn step(&mut self) -> Result<DispatchStep, NotifyError> {
        let is_held = self.right.is_held(self.shared.clock.monotonic_us());
        if is_held != self.was_held {
            self.was_held = is_held;
            tracing::info!(is_held, "the lease of notifications changed hands");
            self.dispatcher.begin_anew();
            self.shared.note_waiting(None);
        }
        if is_held || self.dispatcher.is_closing() {
            return self.dispatcher.step();
        }
        Ok(DispatchStep::Idle { wait_ms: IDLE_MS, is_more: false })
    }

    /// Whether a notice is in hand.
    pub const fn is_closing(&self) -> bool {
        self.dispatcher.is_closing()
    }
}

/// Sends what is due until the process ends. What waits then goes on waiting.
pub(super) fn run(mut dispatching: Dispatching, shared: &Shared, all: &Members) {
    while !shared.is_stopping() && (dispatching.is_closing() || !all.is_draining()) {
        let wait_ms = match dispatching.step() {
            Ok(DispatchStep::Worked) => continue,
            Ok(DispatchStep::Idle { wait_ms, .. } | DispatchStep::Stalled { wait_ms }) => wait_ms,
            Err(error) => {
                tracing::error!(%error, wait_ms = AGAIN_MS, "notifications stand still");
                AGAIN_MS
            }
        };
        let from_us = shared.clock.monotonic_us();
        loop {
            all.wait(Duration::from_millis(wait_ms.min(LOOK_MS)));
            let waited_us = shared.clock.monotonic_us().saturating_sub(from_us);
            if waited_us >= wait_ms.saturating_mul(1000) || shared.is_stopping() || all.is_draining() {
                break;
            }
        }
    }
    all.is_dispatching.store(false, Ordering::SeqCst);
    all.ring();
}

#[cfg(test)]
mod tests;

//! Run by a schedule: sends the notifications that are due.
//!
//! ```text
//! lease of notifications → the outbox in order of due times → decided from the history as it is → channel → written down
//! ```
//!
//! An invocation goes on until nothing is due that can be decided, or until what is left of its time would not do for one
//! more notification. It works under the lease that workers send under too, so that two invocations, or a worker beside
//! it, do not send at once; reserved concurrency of 1 saves the attempt. A process that died with the lease is waited for
//! as long as it could have kept it, once.
//!
//! Same promises as the worker's: at least once, under one id; a second time only if an invocation ends between sending
//! and writing that down, or a lease is wrong for a moment. What waits for an attempt, for the night to end or for the
//! stream to be read further is the next invocation's.

use std::sync::{Arc, Mutex, PoisonError};

use anabranch_aws::kinesis::dispatch_lease::{DispatchLeaseTable, DispatchLeaseTaker};
use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Pause;
use anabranch_stream::notify::dispatcher::DispatchStep;
use anabranch_stream::notify::{Dispatcher, DispatcherParts, NotifyCounts};
use anabranch_stream::ports::PortError;
use anabranch_stream::shared::Shared;
use serde::Serialize;

use crate::compose::{Handler, Invoked};
use crate::report::NotifyReport;
use crate::run::InvocationError;
use crate::stream::Handled;

/// A lease that nobody renews for so long is taken over, in milliseconds: a worker's default.
pub const FAILOVER_MS: u64 = 10_000;
/// What writing down what was sent may take, in milliseconds: a call's patience with DynamoDB, and some.
const WRITING_MS: i64 = 10_000;

/// What an invocation answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotifyResponse {
    /// Sent.
    pub sent: u64,
    /// Whether it stopped because its time was short, or another process sends.
    pub is_unfinished: bool,
}

/// The function behind the schedule.
#[derive(Debug)]
pub struct NotifyFunction {
    shared: Arc<Shared>,
    leases: Arc<dyn DispatchLeaseTable>,
    pause: Arc<dyn Pause>,
    /// The longest that one notification takes, in milliseconds.
    one_ms: i64,
    /// One invocation at a time in a process; it stays over invocations, and with it a notice that was in hand.
    sending: Mutex<Sending>,
}

#[derive(Debug)]
struct Sending {
    dispatcher: Dispatcher,
    taker: DispatchLeaseTaker,
    renewed_us: u64,
}

/// What became of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Ours,
    Anothers,
    OutOfTime,
}

impl NotifyFunction {
    /// `owner` is a name that no other process has; one sending takes at most `send_ms`.
    pub fn new(
        parts: DispatcherParts,
        leases: Arc<dyn DispatchLeaseTable>,
        pause: Arc<dyn Pause>,
        owner: &str,
        send_ms: u64,
    ) -> Self {
        let shared = Arc::clone(&parts.shared);
        let taker = DispatchLeaseTaker::new(owner, FAILOVER_MS);
        let sending = Sending { dispatcher: Dispatcher::new(parts), taker, renewed_us: 0 };
        let one_ms = i64::try_from(send_ms).unwrap_or(i64::MAX).saturating_add(WRITING_MS);
        Self { shared, leases, pause, one_ms, sending: Mutex::new(sending) }
    }

    /// One invocation. An error asks for another; the schedule brings it anyway.
    pub fn handle(&self, with: &Invoked) -> Result<Handled<NotifyResponse, NotifyReport>, InvocationError> {
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.set_model(Arc::clone(&with.model));
        if self.take(&mut sending, with)? != Taken::Ours {
            tracing::info!("another process sends notifications");
            let response = NotifyResponse { sent: 0, is_unfinished: true };
            return Ok(Handled { response, report: NotifyReport::default() });
        }
        let before = self.shared.notices();
        let ended = self.send(&mut sending, with);
        // Whoever comes next need not wait for it to run out.
        if let Err(error) = sending.taker.release(&*self.leases) {
            tracing::warn!(%error, "the lease of notifications is not given back; another takes it when it runs out");
        }
        let is_unfinished = ended?;
        let counts = less(&self.shared.notices(), &before);
        let waiting_ms = self.shared.notices_waiting_ms(self.shared.clock.now_ms());
        let response = NotifyResponse { sent: counts.sent, is_unfinished };
        Ok(Handled { response, report: NotifyReport { counts: Some(counts), waiting_ms } })
    }

    /// Sends until nothing is due. Whether it stopped before.
    fn send(&self, sending: &mut Sending, with: &Invoked) -> Result<bool, InvocationError> {
        sending.dispatcher.begin_anew();
        loop {
            if self.is_short(with) {
                tracing::info!("notifications go on with the next invocation");
                return Ok(true);
            }
            if !self.holds(sending)? {
                tracing::warn!("the lease of notifications is another's now");
                // What is in hand is written down; it went out.
                if sending.dispatcher.is_closing() {
                    sending.dispatcher.step()?;
                }
                return Ok(true);
            }
            match sending.dispatcher.step()? {
                DispatchStep::Worked => {}
                DispatchStep::Idle { is_more: false, .. } => return Ok(false),
                DispatchStep::Idle { is_more: true, wait_ms } | DispatchStep::Stalled { wait_ms } => {
                    self.pause.pause(wait_ms);
                }
            }
        }
    }

    fn is_short(&self, with: &Invoked) -> bool {
        with.deadline_ms.saturating_sub(self.shared.clock.now_ms()) < self.one_ms
    }

    /// Takes the lease. One that another has may be a dead process's: it stands still then.
    fn take(&self, sending: &mut Sending, with: &Invoked) -> Result<Taken, InvocationError> {
        let from_us = self.shared.clock.monotonic_us();
        loop {
            if self.is_short(with) {
                return Ok(Taken::OutOfTime);
            }
            if self.renew(sending)? {
                return Ok(Taken::Ours);
            }
            let waited_us = self.shared.clock.monotonic_us().saturating_sub(from_us);
            if waited_us > FAILOVER_MS * 1000 {
                return Ok(Taken::Anothers);
            }
            self.pause.pause(FAILOVER_MS / 3);
        }
    }

    /// Whether the lease is ours, renewed if it is time.
    fn holds(&self, sending: &mut Sending) -> Result<bool, InvocationError> {
        let now_us = self.shared.clock.monotonic_us();
        if now_us.saturating_sub(sending.renewed_us) < FAILOVER_MS * 1000 / 3 {
            return Ok(true);
        }
        match self.renew(sending) {
            // What is held goes on until its time is over.
            Err(error) if error.kind == ErrorKind::Retry && sending.taker.right().is_held(now_us) => Ok(true),
            renewed => Ok(renewed?),
        }
    }

    fn renew(&self, sending: &mut Sending) -> Result<bool, PortError> {
        let now_us = self.shared.clock.monotonic_us();
        let is_ours = sending.taker.run(&*self.leases, &*self.shared.clock)?;
        sending.renewed_us = now_us;
        Ok(is_ours)
    }
}

impl Handler<serde_json::Value> for NotifyFunction {
    type Response = NotifyResponse;
    type Report = NotifyReport;

    /// Whatever the schedule hands over says nothing.
    fn handle(
        &self,
        _event: &serde_json::Value,
        with: &Invoked,
    ) -> Result<Handled<NotifyResponse, NotifyReport>, InvocationError> {
        Self::handle(self, with)
    }
}

/// What was counted since `before`.
fn less(now: &NotifyCounts, before: &NotifyCounts) -> NotifyCounts {
    let dropped = now.dropped.iter().map(|(reason, count)| {
        let earlier = before.dropped.get(reason).copied().unwrap_or_default();
        (*reason, count - earlier)
    });
    NotifyCounts {
        queued: now.queued - before.queued,
        sent: now.sent - before.sent,
        retried: now.retried - before.retried,
        dead: now.dead - before.dead,
        dropped: dropped.filter(|(_, count)| *count > 0).collect(),
    }
}

#[cfg(test)]
mod tests;

//! A small async runtime of a store's own, for clients that are async behind ports that block.
//!
//! The calling thread waits on a channel, so a call from inside another runtime blocks that thread but cannot panic.

use std::future::Future;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};

use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of one runtime: they move bytes only; the callers' threads do the work.
const THREADS: usize = 2;

/// The runtime's threads are gone, or the future panicked on one of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopped;

/// A runtime that can be dropped anywhere (a plain one panics when dropped inside another).
#[derive(Debug)]
pub(crate) struct OwnRuntime {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl OwnRuntime {
    pub(crate) fn new(thread_name: &'static str) -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name(thread_name).enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs the future and blocks until it is done.
    pub(crate) fn wait<F>(&self, future: F) -> Result<F::Output, Stopped>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        run_on(&self.handle, future).recv().map_err(|_| Stopped)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts the future; its output comes through the channel.
pub(crate) fn run_on<F>(handle: &Handle, future: F) -> Receiver<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (sender, receiver) = sync_channel(1);
    handle.spawn(async move {
        // The receiver is gone only if its reader was dropped; the result is then unwanted.
        let _ = sender.send(future.await);
    });
    receiver
}

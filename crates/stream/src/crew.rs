//! The threads of a running stream. Each has a name; one that fails or panics stops the stream, and the first failure is
//! kept for whoever asks. Dropping the crew stops the stream and waits for the threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anabranch_stores::ErrorKind;

use crate::shared::{Shared, lock};

/// Why a thread ended a stream, and what whoever starts it can do.
pub type Failed = (String, ErrorKind);

/// The threads.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    failure: Arc<Mutex<Option<Failed>>>,
}

impl Crew {
    /// Nobody yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, threads: Mutex::default(), failure: Arc::default() }
    }

    /// Starts a thread. Threads that ended before are forgotten.
    pub fn spawn(
        &self,
        name: &str,
        work: impl FnOnce(&Arc<Shared>) -> Result<(), Failed> + Send + 'static,
    ) -> std::io::Result<()> {
        let (shared, failure) = (Arc::clone(&self.shared), Arc::clone(&self.failure));
        let thread_name = name.to_owned();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(&shared))).unwrap_or_else(|_| {
                Err((format!("thread {thread_name} broke an invariant; please report it"), ErrorKind::Bug))
            });
            if let Err((why, kind)) = result {
                tracing::error!(thread = thread_name, reason = why, "the stream stops");
                shared.set_blocked("failure", Some(why.clone()));
                lock(&failure).get_or_insert((why, kind));
                shared.stop();
            }
        })?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Why the stream stopped by itself, if it did.
    pub fn failure(&self) -> Option<Failed> {
        lock(&self.failure).clone()
    }

    /// Stops the stream and waits for its threads.
    pub fn end(&self) {
        self.shared.stop();
        loop {
            let ending = std::mem::take(&mut *lock(&self.threads));
            if ending.is_empty() {
                return;
            }
            for thread in ending {
                // A panic inside was caught and is told by `failure`.
                drop(thread.join());
            }
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.end();
    }
}

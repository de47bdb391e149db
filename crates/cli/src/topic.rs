//! Notifications to a topic of Amazon SNS: the channel of the `aws` crate with a runtime of its own.

use std::sync::Arc;

use anabranch_aws::sdk::{AwsSettings, Connection};
use anabranch_aws::sns::channel::SnsChannel;
use anabranch_stores::ErrorKind;
use anabranch_stream::notify::{Channel, Notification, SendError};
use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// The channel, and what its calls run on.
#[derive(Debug)]
pub(crate) struct SnsTopic {
    channel: SnsChannel,
    _runtime: Runtime,
}

impl SnsTopic {
    /// To the topic of this ARN. Credentials, region and endpoint are found as AWS's own tools find them.
    pub(crate) fn new(topic: &str) -> Result<Self, Failure> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("sns")
            .build()
            .map_err(|e| Failure::of(ErrorKind::Retry, format!("starting the threads of SNS: {e}")))?;
        let connection = Connection::new(&AwsSettings::default(), runtime.handle().clone());
        Ok(Self { channel: SnsChannel::new(Arc::new(connection.sns()), topic), _runtime: runtime })
    }
}

impl Channel for SnsTopic {
    fn send(&mut self, notification: &Notification, now_ms: i64) -> Result<(), SendError> {
        self.channel.send(notification, now_ms)
    }
}

//! The function behind a schedule: sends the notifications that are due.

use std::sync::Arc;

use anabranch_aws::dynamo::leases::DynamoLeases;
use anabranch_aws::kinesis::frontier::Frontier;
use anabranch_aws::sns::channel::SnsChannel;
use anabranch_lambda::compose::{Composed, name_of_process, serve};
use anabranch_lambda::notify::NotifyFunction;
use anabranch_stream::notify::webhook::{SECRET_BYTES_MIN, Secret};
use anabranch_stream::notify::{AfterAWhile, Channel, ChannelKind, DispatcherParts, LogChannel, Progress, Webhook};
use anabranch_stream::shared::{Shared, SharedParts};

/// The longest that a call of SNS takes, in milliseconds.
const SNS_MS: u64 = 18_000;
/// The schedule comes again; an invocation does not wait for what is not due.
const WALK_EVERY_MS: u64 = 1_000;
const MINUTE_MS: i64 = 60_000;

fn main() -> anyhow::Result<()> {
    serve(|composed| {
        composed.settings.check_notify()?;
        let (channel, send_ms) = channel(&composed)?;
        let owner = name_of_process(&composed);
        let Composed { settings, connection, patience, function, state, model, seed } = composed;
        let lambda = &settings.lambda;
        let clock = Arc::clone(&function.clock);
        let progress: Box<dyn Progress> = if lambda.kinesis_stream.is_empty() {
            Box::new(AfterAWhile::new(Arc::clone(&clock), i64::from(lambda.settle_minutes) * MINUTE_MS))
        } else {
            let kinesis = Arc::new(connection.kinesis(&lambda.kinesis_stream, None));
            Box::new(Frontier::new(kinesis, Arc::clone(&function.state), Arc::clone(&clock)))
        };
        let shared = Shared::new(SharedParts {
            state: function.state,
            sink: function.sink,
            types: function.types,
            settings: function.settings,
            namespace: function.namespace,
            model,
            clock,
        });
        let parts = DispatcherParts {
            shared: Arc::new(shared.with_rules(function.rules)),
            outbox: state,
            progress,
            channel,
            attempts_max: settings.notify.attempts_max,
            seed,
            idle_shortest_ms: WALK_EVERY_MS,
        };
        let leases = DynamoLeases::new(Arc::new(connection.dynamo()), &lambda.lease_table, patience);
        Ok(NotifyFunction::new(parts, Arc::new(leases), Arc::new(connection.pause()), &owner, send_ms))
    })
}

/// The way out, and the longest that one sending takes, in milliseconds.
fn channel(composed: &Composed) -> anyhow::Result<(Box<dyn Channel>, u64)> {
    let notify = &composed.settings.notify;
    Ok(match notify.channel {
        ChannelKind::Log => (Box::new(LogChannel), 0),
        ChannelKind::Webhook => {
            let secret = Secret::new(composed.settings.lambda.webhook_secret.as_bytes()).ok_or_else(|| {
                anyhow::anyhow!("ANABRANCH__LAMBDA__WEBHOOK_SECRET has fewer than {SECRET_BYTES_MIN} bytes")
            })?;
            let timeout_ms = notify.webhook.timeout_ms;
            (Box::new(Webhook::new(&notify.webhook.url, secret, timeout_ms)), timeout_ms)
        }
        ChannelKind::Sns => (Box::new(SnsChannel::new(Arc::new(composed.connection.sns()), &notify.sns.topic)), SNS_MS),
    })
}

//! The function behind an event source mapping of a Kinesis stream.

use anabranch_aws::firehose::pack::RECORD_BYTES;
use anabranch_aws::firehose::sink::FirehoseSink;
use anabranch_lambda::compose::serve;
use anabranch_lambda::stream::StreamFunction;

fn main() -> anyhow::Result<()> {
    serve(|composed| {
        let name = &composed.settings.lambda.firehose;
        let firehose = (!name.is_empty())
            .then(|| FirehoseSink::new(composed.connection.firehose(name), composed.patience.clone(), RECORD_BYTES));
        Ok(StreamFunction { function: composed.function, firehose })
    })
}

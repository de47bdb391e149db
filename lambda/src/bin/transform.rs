//! The function that transforms the data of a Firehose stream.

use anabranch_lambda::compose::serve;
use anabranch_lambda::transform::TransformFunction;

fn main() -> anyhow::Result<()> {
    serve(|composed| Ok(TransformFunction::new(composed.function, composed.settings.lambda.partition)))
}

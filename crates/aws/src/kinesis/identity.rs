//! Which stream it is: the namespace of its ids, objects and checkpoints.
//!
//! A stream that is deleted and made again under its name has new sequence numbers, so a chain of objects, a checkpoint
//! or a list's id of before must not be taken for its own. The namespace is therefore the name *and* the creation time,
//! for a worker and for a function alike: both ask Kinesis.

use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Patience;

use crate::api::{ApiError, KinesisApi, StreamSummary};

/// What Kinesis says of the stream, asked as often as `patience` allows.
pub fn describe(api: &dyn KinesisApi, patience: &Patience) -> Result<StreamSummary, ApiError> {
    patience.run(|error: &ApiError| error.kind.kind() == ErrorKind::Retry, || api.describe())
}

/// The namespace of the stream of this name.
pub fn namespace(stream: &str, summary: &StreamSummary) -> String {
    format!("{stream}-{}", summary.created_ms)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::api::ApiErrorKind;
    use crate::testing::{Faults, SimClock, SimKinesis};

    #[test]
    fn trouble_that_passes_is_waited_for_and_other_is_told() {
        let clock = Arc::new(SimClock::default());
        let kinesis = SimKinesis::new(1, Arc::clone(&clock), 1);
        let patience = Patience::new(clock, 1);
        let summary = describe(&kinesis, &patience).unwrap();
        assert_eq!(namespace("clicks", &summary), format!("clicks-{}", summary.created_ms));
        kinesis.set_faults(Faults { throttled: 1000, ..Faults::default() });
        assert_eq!(describe(&kinesis, &patience).unwrap_err().kind, ApiErrorKind::Throttled);
        assert_eq!(kinesis.calls("DescribeStreamSummary"), 1 + u64::from(patience.attempts_max));
        kinesis.set_faults(Faults { throttled: 500, ..Faults::default() });
        assert_eq!(describe(&kinesis, &patience).unwrap(), summary);
    }
}

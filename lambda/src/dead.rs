//! Dead letters of an invocation: one create-only object whose name is a function of its content, so a repeated
//! invocation finds it there. A batch that is cut differently the second time may write a letter twice; shard and
//! sequence number tell that it is the same.

use anabranch_events::wire::time::day_and_hour;
use anabranch_stores::lake::{ObjectPath, ObjectStore};
use anabranch_stream::object;
use anabranch_stream::ports::{Record, ShardId};
use anabranch_stream::settings::Compression;

use crate::run::{Applied, Function, InvocationError};

/// Writes the dead letters of those records that `wanted` picks, by their place.
pub fn write(
    function: &Function,
    shard: ShardId,
    records: &[Record],
    applied: &Applied,
    wanted: impl Fn(usize) -> bool,
) -> Result<(), InvocationError> {
    let mut first: Option<&Record> = None;
    let mut letters = Vec::new();
    for (index, (record, fate)) in records.iter().zip(&applied.fates).enumerate() {
        if fate.rejected > 0 && wanted(index) {
            first.get_or_insert(record);
            letters.extend_from_slice(&applied.dead[fate.dead.clone()]);
        }
    }
    let Some(first) = first else { return Ok(()) };
    let compression = function.settings.compression;
    let bytes = object::compress(&letters, compression)?;
    let path = path(&function.namespace, shard, first, &letters, compression)?;
    // There already: an earlier invocation wrote the same.
    let _ = ObjectStore::put_new(&function.sink, &path, &bytes)?;
    tracing::warn!(%shard, first = %first.position, object = %path, "records became dead letters");
    Ok(())
}

fn path(
    namespace: &str,
    shard: ShardId,
    first: &Record,
    letters: &[u8],
    compression: Compression,
) -> Result<ObjectPath, InvocationError> {
    let (day, hour) = day_and_hour(first.arrival_ms);
    let extension = match compression {
        Compression::Zstd => "zst",
        Compression::Gzip => "gz",
    };
    let (folder, digest) = (object::DEAD_LETTERS, object::digest(letters));
    let name = format!("{:05}-{:020}-{digest}", shard.0, first.position);
    Ok(ObjectPath::new(format!("{folder}/{namespace}/day={day}/hour={hour}/{name}.jsonl.{extension}"))?)
}

//! `anabranch status`: where the running stream stands.

use crate::compose::Context;
use crate::failure::Failure;
use crate::remote::{Holder, holder};

pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    match holder(context)? {
        Holder::Running(remote) => {
            let status: serde_json::Value = remote.get(&["status"], &[])?;
            context.ui.answer(&status, |status| serde_json::to_string_pretty(status).unwrap_or_default())
        }
        Holder::Here(state) => {
            let mut shards = Vec::new();
            for shard in 0..state.identity().shards {
                shards.push(serde_json::json!({
                    "shard": shard,
                    "committed": state.checkpoint(shard)?,
                    "newest": state.newest(shard)?,
                }));
            }
            let status = serde_json::json!({
                "status": "stopped",
                "stream": state.identity(),
                "diskBytes": state.disk_bytes()?,
                "shards": shards,
            });
            context.ui.answer(&status, |status| serde_json::to_string_pretty(status).unwrap_or_default())
        }
        Holder::Nobody => Err(Failure::missing(format!(
            "there is no stream state in {}; `anabranch stream` creates it",
            context.state_folder().display()
        ))),
    }
}

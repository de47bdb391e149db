//! `anabranch status`: where the running stream stands.

use crate::account::is_kinesis;
use crate::compose::Context;
use crate::failure::Failure;
use crate::remote::{Holder, Remote, holder};

pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    if is_kinesis(context) {
        let worker = Remote::worker(context).ok_or_else(|| {
            Failure::missing(format!(
                "no worker runs on {}; `anabranch stream` starts one, and every worker answers for itself",
                context.home().display()
            ))
        })?;
        return tell(context, &worker);
    }
    match holder(context)? {
        Holder::Running(remote) => tell(context, &remote),
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
        Holder::Table(_) | Holder::Nobody => Err(Failure::missing(format!(
            "there is no stream state in {}; `anabranch stream` creates it",
            context.state_folder().display()
        ))),
    }
}

fn tell(context: &Context, remote: &Remote) -> Result<(), Failure> {
    let status: serde_json::Value = remote.get(&["status"], &[])?;
    context.ui.answer(&status, |status| serde_json::to_string_pretty(status).unwrap_or_default())
}

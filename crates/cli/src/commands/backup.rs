//! `anabranch backup` and `anabranch restore`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};

use anabranch_stores::state::State;
use serde_json::json;

use crate::account::refuse;
use crate::args::{BackupArgs, RestoreArgs};
use crate::compose::Context;
use crate::failure::Failure;
use crate::remote::{Holder, holder};
use crate::ui::grouped;

pub(crate) fn backup(context: &Context, arguments: &BackupArgs) -> Result<(), Failure> {
    refuse(context, "backup", "use DynamoDB's point-in-time recovery of its table")?;
    let out = std::path::absolute(&arguments.out).map_err(|e| Failure::io("find", &arguments.out, &e))?;
    if out.exists() {
        return Err(Failure::input(format!("{} exists; name another file", out.display())));
    }
    let summary = match holder(context)? {
        Holder::Running(remote) => remote.post("/backup", &json!({ "path": out }))?,
        Holder::Here(state) => {
            let partial = out.with_extension("partial");
            let file = File::create(&partial).map_err(|e| Failure::io("create", &partial, &e))?;
            let mut writer = BufWriter::with_capacity(1 << 20, file);
            let summary = state.backup(&mut writer)?;
            let finish = |mut writer: BufWriter<File>| -> std::io::Result<()> {
                writer.flush()?;
                writer.get_ref().sync_all()?;
                std::fs::rename(&partial, &out)?;
                File::open(out.parent().unwrap_or(std::path::Path::new("/")))?.sync_all()
            };
            finish(writer).map_err(|e| Failure::io("write", &out, &e))?;
            json!({ "entries": summary.entries, "bytes": summary.bytes })
        }
        Holder::Table(_) | Holder::Nobody => return Err(Failure::missing("there is no stream state to back up")),
    };
    context.ui.answer(&summary, |summary: &serde_json::Value| {
        format!(
            "{} entries, {} bytes in {}",
            grouped(summary["entries"].as_u64().unwrap_or(0)),
            grouped(summary["bytes"].as_u64().unwrap_or(0)),
            out.display()
        )
    })
}

pub(crate) fn restore(context: &Context, arguments: &RestoreArgs) -> Result<(), Failure> {
    refuse(context, "restore", "restore its table in DynamoDB, and forget again whoever was forgotten since")?;
    let folder = context.state_folder();
    let open = || Ok(BufReader::with_capacity(1 << 20, File::open(&arguments.from)?));
    if !arguments.from.is_file() {
        return Err(Failure::missing(format!("{} is no file", arguments.from.display())));
    }
    let parent = folder.parent().unwrap_or(&folder);
    std::fs::create_dir_all(parent).map_err(|e| Failure::io("create", parent, &e))?;
    let summary = State::restore(&folder, &open)?;
    // The names of forgotten users depend on this key; it belongs to the state.
    let state = State::open_existing(&folder)?;
    context.write_erasure_key(state.erasure_key().secret_bytes())?;
    let json = json!({ "entries": summary.entries, "bytes": summary.bytes });
    context.ui.answer(&json, |_| {
        format!(
            "{} entries restored to {}; the next start walks the delivered objects and goes on after them",
            grouped(summary.entries),
            folder.display()
        )
    })
}

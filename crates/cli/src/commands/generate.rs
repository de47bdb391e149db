//! `anabranch generate`: the built-in shop, or many rows.

use anabranch_batch::generate::{ScaleSettings, ShopSettings, scale, shop};

use crate::args::GenerateArgs;
use crate::compose::Context;
use crate::failure::Failure;
use crate::ui::grouped;

pub(crate) fn run(context: &Context, arguments: &GenerateArgs) -> Result<(), Failure> {
    let truth = match arguments.rows {
        Some(rows) => scale(&ScaleSettings { seed: arguments.seed, rows, days: 365 }, &arguments.out)?,
        None => shop(&ShopSettings { seed: arguments.seed, ..ShopSettings::default() }, &arguments.out)?,
    };
    context.ui.answer(&truth, |truth| {
        format!(
            "{} interaction rows in {} ({} repeated, {} bad).\nNext: anabranch etl --data {}",
            grouped(truth.rows),
            arguments.out.display(),
            grouped(truth.duplicates),
            grouped(truth.bad.values().sum()),
            arguments.out.display(),
        )
    })
}

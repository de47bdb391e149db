//! Rows by the hundred million, for `make scale`: plain CSV shards, bounded memory, skewed users and items.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use super::rng::Rng;
use super::{FIRST_DAY_S, GroundTruth};
use crate::BatchError;

/// Rows of a shard.
const SHARD_ROWS: u64 = 5_000_000;
/// One row in so many is written twice; one in so many is bad.
const DUPLICATE_EVERY: u64 = 100;
const BAD_EVERY: u64 = 10_000;

/// How much to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleSettings {
    /// Everything follows from it.
    pub seed: u64,
    /// Rows in all, repeated and bad ones included.
    pub rows: u64,
    /// Days that they spread over.
    pub days: u32,
}

/// Writes `interactions-NNNN.csv` shards of 5 million rows into `folder`. About one row in a hundred repeats the row
/// before it, one in ten thousand is bad; users number a fiftieth of the rows, items a hundredth (100,000 at most).
pub fn scale(settings: &ScaleSettings, folder: &Path) -> Result<GroundTruth, BatchError> {
    fs::create_dir_all(folder).map_err(|error| BatchError::scratch("create", folder, error))?;
    let users = (settings.rows / 50).max(10);
    let items = (settings.rows / 100).clamp(10, 100_000);
    let seconds = u64::from(settings.days.max(1)) * 86_400;
    let mut truth = GroundTruth::default();
    for shard in 0..settings.rows.div_ceil(SHARD_ROWS) {
        let place = folder.join(format!("interactions-{shard:04}.csv"));
        let failed = |error| BatchError::scratch("write", &place, error);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&place).map_err(failed)?);
        out.write_all(b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n").map_err(failed)?;
        let mut rng = Rng::new(settings.seed, shard);
        let mut row = Vec::with_capacity(64);
        let end = settings.rows.min((shard + 1) * SHARD_ROWS);
        for number in shard * SHARD_ROWS..end {
            if number % BAD_EVERY == BAD_EVERY - 1 {
                out.write_all(b"nobody,,1704067200,view\n").map_err(failed)?;
                *truth.bad.entry("missing-item".to_owned()).or_default() += 1;
            } else if number % DUPLICATE_EVERY == DUPLICATE_EVERY / 2 && !row.is_empty() {
                out.write_all(&row).map_err(failed)?;
                truth.duplicates += 1;
            } else {
                put_row(&mut row, &mut rng, users, items, seconds);
                out.write_all(&row).map_err(failed)?;
            }
        }
        out.flush().map_err(failed)?;
    }
    truth.rows = settings.rows;
    truth.clean = truth.rows - truth.duplicates - truth.bad.values().sum::<u64>();
    Ok(truth)
}

/// A fresh row. Two of them may say the same by chance, so `truth.duplicates` is a lower bound, exact to a few in a
/// million at scale.
fn put_row(row: &mut Vec<u8>, rng: &mut Rng, users: u64, items: u64, seconds: u64) {
    // The square of a uniform number: a tenth of the users make a third of the rows.
    let skewed = |rng: &mut Rng, count: u64| {
        let unit = rng.unit();
        ((unit * unit * count as f64) as u64).min(count - 1)
    };
    row.clear();
    row.push(b'u');
    put_number(row, skewed(rng, users));
    row.extend_from_slice(b",i");
    put_number(row, skewed(rng, items));
    row.push(b',');
    put_number(row, FIRST_DAY_S as u64 + rng.below(seconds));
    let kind: &[u8] = match rng.below(20) {
        0 => b",purchase\n",
        1 | 2 => b",cart\n",
        _ => b",view\n",
    };
    row.extend_from_slice(kind);
}

fn put_number(row: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    row.extend_from_slice(&digits[at..]);
}

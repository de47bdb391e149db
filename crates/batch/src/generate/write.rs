//! The shop's files: interactions as CSV (one of them gzipped), the catalogue as JSON Lines, users as CSV, and the
//! ground truth.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::rng::Rng;
use super::sessions::{Shelves, ShopEvent, kind_of, user_events};
use super::words::{CATEGORIES, MATERIALS, STYLES};
use super::{FIRST_DAY_S, GroundTruth, ShopSettings};
use crate::BatchError;

const HEADER: &str = "USER_ID,SESSION_ID,ITEM_ID,EVENT_TYPE,EVENT_VALUE,TIMESTAMP,EVENT_ID\n";
/// Interaction files; the second is gzipped.
const FILES: usize = 4;
/// Events of the bot, all on one day: more than the default limit of 2,000.
const BOT_EVENTS: u64 = 2_600;
/// One row in so many is written twice.
const DUPLICATE_EVERY: usize = 400;
/// One bad row follows every so many rows.
const BAD_EVERY: usize = 5_000;
/// What a bad row looks like, and why it is refused.
const BAD_ROWS: [(&str, &str); 8] = [
    ("u1,s1,item-1\n", "unparsable"),
    ("u1,\"s1,item-1,view,,1704067200,bad\n", "unparsable"),
    (",,item-1,view,,1704067200,\n", "missing-user"),
    ("u1,s1,,view,,1704067200,\n", "missing-item"),
    ("u1,s1,item-1,view,,,\n", "missing-time"),
    ("u1,s1,item-1,levitate,,1704067200,\n", "unknown-event-type"),
    ("u1,s1,item-1,view,,last tuesday,\n", "bad-time"),
    ("u1,s1,item-1,purchase,NaN,1704067200,\n", "bad-value"),
];

/// Writes the shop into `folder` (created if need be): `interactions-*.csv[.gz]`, `items.jsonl`, `users.csv`,
/// `truth.json`.
pub fn shop(settings: &ShopSettings, folder: &Path) -> Result<GroundTruth, BatchError> {
    fs::create_dir_all(folder).map_err(|error| BatchError::scratch("create", folder, error))?;
    let mut truth = GroundTruth::default();
    let mut events = Vec::new();
    let shelves = Shelves::new(settings.items.max(1));
    let mut next_session = 0;
    for user in 0..settings.users {
        truth.log_ins += user_events(settings, user, &shelves, &mut next_session, &mut events);
    }
    // Stable, so that events of one second stay in the order of users.
    events.sort_by_key(|event| event.time_s);
    write_interactions(settings, &events, folder, &mut truth)?;
    write_file(&folder.join("items.jsonl"), items(settings, &mut truth).as_bytes())?;
    write_file(&folder.join("users.csv"), &users(settings, &mut truth))?;
    let json = serde_json::to_vec_pretty(&truth).expect("numbers serialise");
    write_file(&folder.join("truth.json"), &json)?;
    Ok(truth)
}

fn write_file(place: &Path, bytes: &[u8]) -> Result<(), BatchError> {
    fs::write(place, bytes).map_err(|error| BatchError::scratch("write", place, error))
}

fn write_interactions(
    settings: &ShopSettings,
    events: &[ShopEvent],
    folder: &Path,
    truth: &mut GroundTruth,
) -> Result<(), BatchError> {
    let per_file = events.len().div_ceil(FILES).max(1);
    let mut number = 0_usize;
    for file in 0..FILES {
        let mut text = HEADER.as_bytes().to_vec();
        for event in events.iter().skip(file * per_file).take(per_file) {
            put_row(&mut text, event, number);
            truth.rows += 1;
            truth.clean += 1;
            if number % DUPLICATE_EVERY == DUPLICATE_EVERY - 1 {
                put_row(&mut text, event, number);
                truth.rows += 1;
                truth.duplicates += 1;
            }
            if number % BAD_EVERY == BAD_EVERY - 1 {
                let (row, code) = BAD_ROWS[number / BAD_EVERY % BAD_ROWS.len()];
                text.extend_from_slice(row.as_bytes());
                truth.rows += 1;
                *truth.bad.entry(code.to_owned()).or_default() += 1;
            }
            number += 1;
        }
        if file == FILES - 1 {
            put_bot(settings, &mut text, truth);
        }
        let name = format!("interactions-{}.csv", file + 1);
        if file == 1 {
            let mut encoder = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::new(6));
            let packed = encoder.write_all(&text).and_then(|()| encoder.finish());
            let packed =
                packed.map_err(|error| BatchError::Encode { what: "interactions", detail: error.to_string() })?;
            write_file(&folder.join(format!("{name}.gz")), &packed)?;
        } else {
            write_file(&folder.join(name), &text)?;
        }
    }
    Ok(())
}

fn put_row(text: &mut Vec<u8>, event: &ShopEvent, number: usize) {
    let ShopEvent { time_s, user, session, item, act, quantity } = event;
    let user = user.map(|user| format!("user-{user}")).unwrap_or_default();
    let value = if *quantity > 1 { quantity.to_string() } else { String::new() };
    writeln!(text, "{user},session-{session},item-{item},{},{value},{time_s},event-{number}", act.name())
        .expect("writing to memory cannot fail");
}

/// Something that looks at every item, over and over, on the last day.
fn put_bot(settings: &ShopSettings, text: &mut Vec<u8>, truth: &mut GroundTruth) {
    let start = FIRST_DAY_S + i64::from(settings.days.max(1) - 1) * 86_400;
    for look in 0..BOT_EVENTS {
        let item = look % u64::from(settings.items.max(1));
        let time_s = start + (look * 30) as i64;
        writeln!(text, "crawler,,item-{item},view,,{time_s},crawl-{look}").expect("writing to memory cannot fail");
    }
    truth.rows += BOT_EVENTS;
    truth.clean += BOT_EVENTS;
    truth.bots = 1;
}

fn items(settings: &ShopSettings, truth: &mut GroundTruth) -> String {
    let mut text = String::new();
    for item in 0..settings.items {
        let rng = &mut Rng::new(settings.seed, (1 << 40) + u64::from(item));
        let (category, style) = kind_of(item);
        let (category, adjectives) = (&CATEGORIES[category], STYLES[style]);
        let adjective = adjectives[rng.below(5) as usize];
        let material = MATERIALS[rng.below(MATERIALS.len() as u64) as usize];
        let good = category.goods[rng.below(8) as usize];
        let (low, high) = category.price;
        // Squared, so that most goods are cheap; prices end in 9.
        let spread = rng.unit() * rng.unit();
        let cents = (low + (spread * (high - low) as f64) as u64) / 10 * 10 + 9;
        let line = serde_json::json!({
            "ITEM_ID": format!("item-{item}"),
            "TITLE": format!("{adjective} {material} {good}"),
            "CATEGORY": category.name,
            "PRICE": cents as f64 / 100.0,
            "STYLE": style_name(style),
        });
        text.push_str(&line.to_string());
        text.push('\n');
        truth.item_rows += 1;
        truth.items += 1;
    }
    text
}

const fn style_name(style: usize) -> &'static str {
    ["rustic", "modern", "playful", "classic"][style % 4]
}

fn users(settings: &ShopSettings, truth: &mut GroundTruth) -> Vec<u8> {
    let mut text = b"USER_ID,AGE,COUNTRY\n".to_vec();
    for user in 0..settings.users {
        let rng = &mut Rng::new(settings.seed, (2 << 40) + u64::from(user));
        let country = ["DE", "FR", "GB", "NL", "PL", "SE"][rng.below(6) as usize];
        let age = 18 + rng.below(60);
        writeln!(text, "user-{user},{age},{country}").expect("writing to memory cannot fail");
        truth.users += 1;
    }
    text
}

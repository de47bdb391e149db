//! Items and users: rows of attributes, the last row of an id winning, written as the catalogue and the users' file.
//!
//! Users' rows travel through the same shuffle as their events and meet them in the fold; items have a shuffle of their
//! own. So neither has to fit into memory.

use std::borrow::Cow;
use std::path::Path;

use anabranch_events::ids::{ID_BYTES_MAX, IdFault, check_id};
use anabranch_events::{Rejection, RejectionCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::publish::Publisher;
use super::row::{RowRef, put_attributes};
use super::shuffle::{Spill, partition_count};
use crate::BatchError;
use crate::input::{Cell, Columns, InputFile, Want, Wanted};
use crate::mapping::{OneOrMany, TableMapping};
use crate::tables::{Column, GROUP_ROWS, Table, TextBuilder};

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttributeTable {
    Items,
    Users,
}

impl AttributeTable {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Users => "users",
        }
    }
}

/// How the cells of an attribute row are read.
#[derive(Debug)]
pub(crate) struct AttributePlan {
    table: AttributeTable,
    pub(crate) columns: Columns,
    /// Cells 1..1 + `title` make the title; then category, price; then these attributes.
    title: usize,
    names: Vec<String>,
}

/// An item's row in the shuffle.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ItemPayload<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    title: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    category: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    price: Option<f64>,
    #[serde(skip_serializing_if = "Map::is_empty", default)]
    attributes: Map<String, Value>,
}

impl AttributePlan {
    pub(crate) fn new(table: AttributeTable, mapping: &TableMapping) -> Self {
        let columns = &mapping.columns;
        let text = |mapped: Option<&str>, usual: &[&str]| Wanted::new(mapped, usual, Want::Text, false);
        let id: &[&str] = if table == AttributeTable::Items { &["ITEM_ID", "itemId"] } else { &["USER_ID", "userId"] };
        let mut wanted = vec![Wanted::new(columns.id.as_deref(), id, Want::Text, true)];
        match &columns.title {
            Some(OneOrMany::One(name)) => wanted.push(text(Some(name), &[])),
            Some(OneOrMany::Many(names)) => wanted.extend(names.iter().map(|name| text(Some(name), &[]))),
            None if table == AttributeTable::Items => wanted.push(text(None, &["TITLE", "NAME"])),
            None => {}
        }
        let title = wanted.len() - 1;
        let (category, price): (&[&str], &[&str]) =
            if table == AttributeTable::Items { (&["CATEGORY", "CATEGORY_L1"], &["PRICE"]) } else { (&[], &[]) };
        wanted.push(text(columns.category.as_deref(), category));
        wanted.push(Wanted::new(columns.price.as_deref(), price, Want::Number, false));
        let mut names = Vec::new();
        for (name, column) in &columns.attributes {
            wanted.push(text(Some(column), &[]));
            names.push(name.clone());
        }
        let delimiter = mapping.delimiter.map(|delimiter| delimiter as u8);
        let columns = Columns { wanted, one_of: Vec::new(), keep_others: mapping.keep_other_columns, delimiter };
        Self { table, columns, title, names }
    }

    /// A row's id and payload.
    pub(crate) fn read<'a>(
        &self,
        cells: &mut [Cell<'a>],
        others: &mut Vec<(Cow<'a, str>, Cell<'a>)>,
    ) -> Result<(Cow<'a, str>, Vec<u8>), Rejection> {
        let is_items = self.table == AttributeTable::Items;
        let missing = if is_items { RejectionCode::MissingItem } else { RejectionCode::MissingUser };
        let mut take = |index: usize| std::mem::take(&mut cells[index]);
        let id = take(0).into_text().ok_or_else(|| Rejection::new(missing, "no id"))?;
        if let Err(IdFault::TooLong(bytes)) = check_id(&id) {
            let detail = format!("an id of {bytes} bytes, at most {ID_BYTES_MAX} are accepted");
            return Err(Rejection::new(RejectionCode::IdTooLong, detail));
        }
        let title: Vec<Cow<'_, str>> = (1..=self.title).filter_map(|i| take(i).into_text()).collect();
        let category = take(self.title + 1).into_text();
        let mut attributes = Map::new();
        let price = match take(self.title + 2) {
            Cell::Absent => None,
            Cell::Number(number) if number.is_finite() => Some(number),
            cell => {
                let text = cell.into_text().unwrap_or_default();
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                if number.is_none() && !text.is_empty() {
                    // A price that is no number ("on request") is kept as it is; the item is not refused for it.
                    attributes.insert("price".to_owned(), Value::from(text.into_owned()));
                }
                number
            }
        };
        for (name, cell) in self.names.iter().zip(&mut cells[self.title + 3..]) {
            put_value(&mut attributes, name, std::mem::take(cell));
        }
        for (name, cell) in others.drain(..) {
            put_value(&mut attributes, &name, cell);
        }
        let payload = if is_items {
            let title = (!title.is_empty()).then(|| Cow::Owned(title.join(" ")));
            serde_json::to_vec(&ItemPayload { title, category, price, attributes })
        } else {
            for (name, text) in [("title", Some(title.join(" "))), ("category", category.map(Cow::into_owned))] {
                if let Some(text) = text.filter(|text| !text.is_empty()) {
                    attributes.insert(name.to_owned(), text.into());
                }
            }
            if let Some(price) = price {
                attributes.insert("price".to_owned(), price.into());
            }
            serde_json::to_vec(&attributes)
        };
        Ok((id, payload.expect("texts and numbers serialise")))
    }
}

fn put_value(attributes: &mut Map<String, Value>, name: &str, cell: Cell<'_>) {
    match cell {
        Cell::Number(number) => {
            attributes.insert(name.to_owned(), Value::from(number));
        }
        cell => {
            if let Some(text) = cell.into_text() {
                attributes.insert(name.to_owned(), Value::from(text.into_owned()));
            }
        }
    }
}

/// Order of attribute rows: (file, offset); the greatest wins.
pub(crate) fn row_order(file: u32, offset: u64) -> i64 {
    // 20 bits of file number and 43 of offset: a million files of 8 TiB.
    (i64::from(file & 0xf_ffff) << 43) | (offset & ((1 << 43) - 1)) as i64
}

/// The items' shuffle.
pub(crate) fn items_spill(scratch: &Path, files: &[InputFile]) -> Result<Spill, BatchError> {
    let bytes = files.iter().map(InputFile::decoded_bytes_estimate).sum();
    Spill::create(scratch, partition_count(bytes, 1))
}

pub(crate) fn put_item(out: &mut Vec<u8>, id: &str, order: i64, payload: &[u8]) {
    put_attributes(out, id, order, payload);
}

/// The table of items.
pub(crate) fn items_table() -> Table {
    Table::new(
        "catalog",
        "message items {
            required binary item_id (STRING);
            optional binary title (STRING);
            optional binary category (STRING);
            optional double price;
            optional binary attributes (JSON);
        }",
        &["item_id", "title", "attributes"],
        &[],
    )
}

/// Writes a partition of items; returns (items, replaced rows).
pub(crate) fn write_items(
    partition: usize,
    spill: &Spill,
    table: &Table,
    publisher: &Publisher<'_>,
) -> Result<(u64, u64), BatchError> {
    publish_items(&spill.partition(partition)?, table, publisher, &|detail| spill.corrupt(detail))
}

/// Writes these items' rows; returns (items, replaced rows).
pub(crate) fn publish_items(
    bytes: &[u8],
    table: &Table,
    publisher: &Publisher<'_>,
    corrupt: &dyn Fn(&str) -> BatchError,
) -> Result<(u64, u64), BatchError> {
    let mut rows = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (row, tail) = RowRef::split(rest).ok_or_else(|| corrupt("an item is cut short"))?;
        rows.push(row);
        rest = tail;
    }
    rows.sort_unstable_by(|a, b| (a.owner(), a.time_ms()).cmp(&(b.owner(), b.time_ms())));
    let read = rows.len();
    let mut last: Vec<RowRef<'_>> =
        rows.chunk_by(|a, b| a.owner() == b.owner()).filter_map(|same| same.last().copied()).collect();
    last.dedup_by_key(|row| row.owner());
    let payloads = last
        .iter()
        .map(|row| serde_json::from_slice::<ItemPayload<'_>>(row.payload()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| corrupt(&error.to_string()))?;
    let items: Vec<_> = last.iter().zip(&payloads).collect();
    if !items.is_empty() {
        let mut groups = items.chunks(GROUP_ROWS);
        let encoded = table.encode(|| groups.next().map(item_columns))?;
        publisher.put("catalog", "catalog/items-", ".parquet", &encoded, items.len() as u64)?;
    }
    Ok((items.len() as u64, (read - items.len()) as u64))
}

fn item_columns(items: &[(&RowRef<'_>, &ItemPayload<'_>)]) -> Vec<Column> {
    let mut ids = TextBuilder::required();
    let (mut titles, mut categories, mut attributes) =
        (TextBuilder::optional(), TextBuilder::optional(), TextBuilder::optional());
    let (mut prices, mut present) = (Vec::new(), Vec::new());
    for (row, item) in items {
        ids.push(Some(row.owner()));
        titles.push(item.title.as_ref().map(|text| text.as_bytes()));
        categories.push(item.category.as_ref().map(|text| text.as_bytes()));
        present.push(i16::from(item.price.is_some()));
        prices.extend(item.price);
        let json = serde_json::to_vec(&item.attributes).expect("a map of JSON values serialises");
        attributes.push((!item.attributes.is_empty()).then_some(&json));
    }
    let prices = Column::Double { values: prices, present };
    vec![ids.finish(), titles.finish(), categories.finish(), prices, attributes.finish()]
}

/// The table of users.
pub(crate) fn users_table() -> Table {
    Table::new(
        "users",
        "message users {
            required binary user_id (STRING);
            optional binary attributes (JSON);
            required int64 events;
            required boolean is_bot;
        }",
        &["user_id"],
        &[],
    )
}

/// Users of one partition, in order of id.
#[derive(Debug, Default)]
pub(crate) struct UserRows {
    ids: Vec<u8>,
    id_ends: Vec<usize>,
    attributes: Vec<Option<Vec<u8>>>,
    events: Vec<i64>,
    bots: Vec<bool>,
}

impl UserRows {
    pub(crate) fn push(&mut self, user: &str, attributes: Option<&[u8]>, events: u64, is_bot: bool) {
        self.ids.extend_from_slice(user.as_bytes());
        self.id_ends.push(self.ids.len());
        self.attributes.push(attributes.map(<[u8]>::to_vec));
        self.events.push(i64::try_from(events).unwrap_or(i64::MAX));
        self.bots.push(is_bot);
    }

    pub(crate) fn publish(&self, table: &Table, publisher: &Publisher<'_>) -> Result<(), BatchError> {
        let count = self.events.len();
        if count == 0 {
            return Ok(());
        }
        let mut from = 0;
        let encoded = table.encode(|| {
            let to = count.min(from + GROUP_ROWS);
            let group = (from < to).then(|| self.columns(from, to));
            from = to;
            group
        })?;
        publisher.put("users", "users/users-", ".parquet", &encoded, count as u64)
    }

    fn columns(&self, from: usize, to: usize) -> Vec<Column> {
        let (mut ids, mut attributes) = (TextBuilder::required(), TextBuilder::optional());
        for index in from..to {
            let start = if index == 0 { 0 } else { self.id_ends[index - 1] };
            ids.push(Some(&self.ids[start..self.id_ends[index]]));
            attributes.push(self.attributes[index].as_deref());
        }
        let events = Column::Long(self.events[from..to].to_vec());
        vec![ids.finish(), attributes.finish(), events, Column::Bool(self.bots[from..to].to_vec())]
    }
}

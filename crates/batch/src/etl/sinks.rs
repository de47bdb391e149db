//! Where rows go: the map's sink (events into the shuffle), the attributes' sink, and a plain visitor for replays. All
//! keep the accounts of what they saw.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anabranch_events::{Event, EventTypes, Fields, Rejection, RejectionCode};

use super::Accounting;
use super::attributes::{AttributePlan, AttributeTable, item_hash, put_item, row_order};
use super::map::{MapRules, Mapped, fields, interaction_columns, map_row};
use super::quarantine::{Quarantine, Quarantined};
use super::report::FileReport;
use super::row::{owner_hash, put_alias, put_attributes, put_event};
use super::shuffle::SpillWriter;
use crate::BatchError;
use crate::input::{Cell, InputFile, Place, Reading, RowSink, read_rows};
use crate::mapping::InteractionsMapping;

/// What sinks saw, file by file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) files: Vec<FileReport>,
    pub(crate) by_reason: BTreeMap<RejectionCode, u64>,
}

impl Accounts {
    fn file(&mut self, place: Place) -> &mut FileReport {
        let index = place.file as usize;
        if self.files.len() <= index {
            self.files.resize(index + 1, FileReport::default());
        }
        &mut self.files[index]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.files.resize(self.files.len().max(other.files.len()), FileReport::default());
        for (mine, theirs) in self.files.iter_mut().zip(&other.files) {
            mine.read += theirs.read;
            mine.quarantined += theirs.quarantined;
            mine.after_cut_over += theirs.after_cut_over;
        }
        for (reason, count) in &other.by_reason {
            *self.by_reason.entry(*reason).or_default() += count;
        }
    }
}

/// Refused rows of the unit being read, and the accounts.
struct Desk<'a> {
    table: (u8, &'static str),
    files: &'a [InputFile],
    quarantine: &'a Quarantine,
    accounts: Accounts,
    unit: Option<Place>,
    lines: Vec<u8>,
}

impl<'a> Desk<'a> {
    fn new(table: (u8, &'static str), files: &'a [InputFile], quarantine: &'a Quarantine) -> Self {
        Self { table, files, quarantine, accounts: Accounts::default(), unit: None, lines: Vec::new() }
    }

    fn refuse(&mut self, place: Place, rejection: &Rejection, raw: &[u8]) {
        self.accounts.file(place).quarantined += 1;
        *self.accounts.by_reason.entry(rejection.code).or_default() += 1;
        let file = &self.files[place.file as usize].name;
        Quarantined::row(self.table.1, file, place, rejection, raw).put(&mut self.lines);
        self.unit = Some(place);
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        if let Some(place) = self.unit.take() {
            self.quarantine.add((self.table.0, place.file, place.unit), &self.lines)?;
            self.lines.clear();
        }
        Ok(())
    }
}

/// Maps interaction rows into the shuffle.
pub(crate) struct MapSink<'a> {
    rules: &'a MapRules<'a>,
    constant_type: Option<&'a str>,
    spill: SpillWriter<'a>,
    desk: Desk<'a>,
}

impl<'a> MapSink<'a> {
    pub(crate) fn new(
        rules: &'a MapRules<'a>,
        constant_type: Option<&'a str>,
        spill: SpillWriter<'a>,
        files: &'a [InputFile],
        quarantine: &'a Quarantine,
    ) -> Self {
        Self { rules, constant_type, spill, desk: Desk::new((0, "interactions"), files, quarantine) }
    }
}

/// Sends an event to its owner's partition and, if it names user and session, an alias to the session's.
fn spill_event(event: &Event<'_>, spill: &mut SpillWriter<'_>) -> Result<(), BatchError> {
    let (is_session, owner) = match (&event.user, &event.session) {
        (Some(user), _) => (false, user),
        (None, Some(session)) => (true, session),
        (None, None) => return Ok(()),
    };
    let partition = spill.partition_of(owner_hash(is_session, owner.as_bytes()));
    spill.push(partition, |out| put_event(out, event))?;
    if let (Some(user), Some(session)) = (&event.user, &event.session) {
        let partition = spill.partition_of(owner_hash(true, session.as_bytes()));
        spill.push(partition, |out| put_alias(out, session, user, event.time_ms, event.key))?;
    }
    Ok(())
}

impl RowSink for MapSink<'_> {
    fn row<'r>(
        &mut self,
        place: Place,
        cells: &mut [Cell<'r>],
        _: &mut Vec<(Cow<'r, str>, Cell<'r>)>,
        raw: &dyn Fn() -> Vec<u8>,
    ) -> Result<(), BatchError> {
        // A shorter lifetime than the row's, so that the constant may be borrowed too.
        let mut fields: Fields<'_> = fields(cells);
        if let Some(name) = self.constant_type {
            fields.event_type = Some(Cow::Borrowed(name));
        }
        self.desk.accounts.file(place).read += 1;
        match map_row(fields, self.rules) {
            Ok(Mapped::Event(event)) => spill_event(&event, &mut self.spill),
            Ok(Mapped::AfterCutOver) => {
                self.desk.accounts.file(place).after_cut_over += 1;
                Ok(())
            }
            Err(rejection) => {
                self.desk.refuse(place, &rejection, &raw());
                Ok(())
            }
        }
    }

    fn bad_row(&mut self, place: Place, rejection: Rejection, raw: &[u8]) -> Result<(), BatchError> {
        self.desk.accounts.file(place).read += 1;
        self.desk.refuse(place, &rejection, raw);
        Ok(())
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        self.desk.unit_done()
    }
}

impl Accounting for MapSink<'_> {
    fn finish(mut self) -> Result<Accounts, BatchError> {
        self.spill.finish()?;
        Ok(self.desk.accounts)
    }
}

/// Sends rows of attributes to the partition of their id.
pub(crate) struct AttributeSink<'a> {
    table: AttributeTable,
    plan: &'a AttributePlan,
    spill: SpillWriter<'a>,
    desk: Desk<'a>,
}

impl<'a> AttributeSink<'a> {
    pub(crate) fn new(
        table: AttributeTable,
        plan: &'a AttributePlan,
        spill: SpillWriter<'a>,
        files: &'a [InputFile],
        quarantine: &'a Quarantine,
    ) -> Self {
        let number = if table == AttributeTable::Items { 1 } else { 2 };
        Self { table, plan, spill, desk: Desk::new((number, table.name()), files, quarantine) }
    }
}

impl RowSink for AttributeSink<'_> {
    fn row<'r>(
        &mut self,
        place: Place,
        cells: &mut [Cell<'r>],
        others: &mut Vec<(Cow<'r, str>, Cell<'r>)>,
        raw: &dyn Fn() -> Vec<u8>,
    ) -> Result<(), BatchError> {
        self.desk.accounts.file(place).read += 1;
        match self.plan.read(cells, others) {
            Ok((id, payload)) => {
                let order = row_order(place.file, place.offset);
                if self.table == AttributeTable::Items {
                    let partition = self.spill.partition_of(item_hash(&id));
                    self.spill.push(partition, |out| put_item(out, &id, order, &payload))
                } else {
                    let partition = self.spill.partition_of(owner_hash(false, id.as_bytes()));
                    self.spill.push(partition, |out| put_attributes(out, &id, order, &payload))
                }
            }
            Err(rejection) => {
                self.desk.refuse(place, &rejection, &raw());
                Ok(())
            }
        }
    }

    fn bad_row(&mut self, place: Place, rejection: Rejection, raw: &[u8]) -> Result<(), BatchError> {
        self.desk.accounts.file(place).read += 1;
        self.desk.refuse(place, &rejection, raw);
        Ok(())
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        self.desk.unit_done()
    }
}

impl Accounting for AttributeSink<'_> {
    fn finish(mut self) -> Result<Accounts, BatchError> {
        self.spill.finish()?;
        Ok(self.desk.accounts)
    }
}

/// What [`read_events`] calls for each event or refusal.
pub type EachEvent<'a> = &'a mut (dyn FnMut(Result<Event<'_>, Quarantined>) -> Result<(), BatchError> + Send);

/// Visits the events of `files` in file order, one by one; refused rows and files come in their place. For replays.
///
/// `as_of_ms` is the arrival by which times are judged. The visitor's error ends the reading.
pub fn read_events(
    files: &[InputFile],
    mapping: &InteractionsMapping,
    types: &EventTypes,
    as_of_ms: i64,
    scratch: &Path,
    each: EachEvent<'_>,
) -> Result<(), BatchError> {
    let columns = interaction_columns(mapping);
    let rules = MapRules { types, as_of_ms, until_ms: None };
    let mut visitor = [Visitor { rules: &rules, constant_type: mapping.event_type.as_deref(), file: "", each }];
    // File by file, so that a file's failure is told after its rows and before the next file's.
    for file in files {
        visitor[0].file = &file.name;
        let reading = Reading { files: std::slice::from_ref(file), columns: &columns, scratch, progress: &|_| {} };
        for outcome in read_rows(&reading, &mut visitor)? {
            if let Some(reason) = outcome.failed {
                (visitor[0].each)(Err(Quarantined::file("interactions", &file.name, &reason)))?;
            }
        }
    }
    Ok(())
}

struct Visitor<'a> {
    rules: &'a MapRules<'a>,
    constant_type: Option<&'a str>,
    file: &'a str,
    each: EachEvent<'a>,
}

impl RowSink for Visitor<'_> {
    fn row<'r>(
        &mut self,
        place: Place,
        cells: &mut [Cell<'r>],
        _: &mut Vec<(Cow<'r, str>, Cell<'r>)>,
        raw: &dyn Fn() -> Vec<u8>,
    ) -> Result<(), BatchError> {
        let mut fields: Fields<'_> = fields(cells);
        if let Some(name) = self.constant_type {
            fields.event_type = Some(Cow::Borrowed(name));
        }
        match map_row(fields, self.rules) {
            Ok(Mapped::Event(event)) => (self.each)(Ok(event)),
            Ok(Mapped::AfterCutOver) => Ok(()),
            Err(rejection) => {
                let entry = Quarantined::row("interactions", self.file, place, &rejection, &raw());
                (self.each)(Err(entry))
            }
        }
    }

    fn bad_row(&mut self, place: Place, rejection: Rejection, raw: &[u8]) -> Result<(), BatchError> {
        (self.each)(Err(Quarantined::row("interactions", self.file, place, &rejection, raw)))
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        Ok(())
    }
}

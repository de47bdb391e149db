//! Where rows go: the map's sink (events into a shuffle), the attributes' sink, and a plain visitor for replays. All
//! keep the accounts of what they saw. The shuffle and the quarantine are the local ones, or those of an engine that
//! runs the [stages](super::stages) apart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anabranch_events::{Event, EventTypes, Fields, Rejection, RejectionCode};

use super::Accounting;
use super::attributes::{AttributePlan, AttributeTable, put_item, row_order};
use super::map::{MapRules, Mapped, fields, interaction_columns, map_row};
use super::quarantine::{BlockKey, Quarantine, Quarantined};
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
            mine.too_new += theirs.too_new;
            mine.after_cut_over += theirs.after_cut_over;
        }
        for (reason, count) in &other.by_reason {
            *self.by_reason.entry(*reason).or_default() += count;
        }
    }
}

/// A shuffle that rows are put into.
pub(crate) trait RowsOut: Send {
    /// Takes the row that `put` appends, which belongs to `owner`.
    fn row(&mut self, is_session: bool, owner: &str, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), BatchError>;

    /// All rows were put.
    fn finish(&mut self) -> Result<(), BatchError>;
}

impl RowsOut for SpillWriter<'_> {
    fn row(&mut self, is_session: bool, owner: &str, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), BatchError> {
        let partition = self.partition_of(owner_hash(is_session, owner.as_bytes()));
        self.push(partition, put)
    }

    fn finish(&mut self) -> Result<(), BatchError> {
        SpillWriter::finish(self)
    }
}

/// Bytes of lines of the quarantine that are handed over together. A unit may be a row group without bound, and all its
/// rows may be refused, each with up to 64 KiB of itself.
const LINES_BYTES: usize = 8 << 20;

/// Where lines of the quarantine go.
pub(crate) trait RefusalsOut: Send {
    /// Takes lines of one unit of a file, [`LINES_BYTES`] and a line at most; of one unit in order.
    fn refused(&mut self, key: BlockKey, lines: &[u8]) -> Result<(), BatchError>;
}

impl RefusalsOut for &Quarantine {
    fn refused(&mut self, key: BlockKey, lines: &[u8]) -> Result<(), BatchError> {
        self.add(key, lines)
    }
}

/// The files of a sink: places count from the first of these, which is the table's file number `first`.
#[derive(Clone, Copy)]
pub(crate) struct SinkFiles<'a> {
    pub(crate) files: &'a [InputFile],
    pub(crate) first: u32,
}

/// Refused rows of the unit being read, and the accounts.
struct Desk<'a, Q> {
    table: (u8, &'static str),
    files: SinkFiles<'a>,
    quarantine: Q,
    accounts: Accounts,
    unit: Option<Place>,
    lines: Vec<u8>,
}

impl<'a, Q: RefusalsOut> Desk<'a, Q> {
    fn new(table: (u8, &'static str), files: SinkFiles<'a>, quarantine: Q) -> Self {
        Self { table, files, quarantine, accounts: Accounts::default(), unit: None, lines: Vec::new() }
    }

    fn refuse(&mut self, place: Place, rejection: &Rejection, raw: &[u8]) -> Result<(), BatchError> {
        let line = self.accounts.file(place);
        line.quarantined += 1;
        line.too_new += u64::from(rejection.code == RejectionCode::TimeTooNew);
        *self.accounts.by_reason.entry(rejection.code).or_default() += 1;
        let file = &self.files.files[place.file as usize].name;
        Quarantined::row(self.table.1, file, place, rejection, raw).put(&mut self.lines);
        self.unit = Some(place);
        if self.lines.len() >= LINES_BYTES { self.unit_done() } else { Ok(()) }
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        if let Some(place) = self.unit.take() {
            self.quarantine.refused((self.table.0, self.files.first + place.file, place.unit), &self.lines)?;
            self.lines.clear();
        }
        Ok(())
    }
}

/// Maps interaction rows into a shuffle.
pub(crate) struct MapSink<'a, O, Q> {
    rules: &'a MapRules<'a>,
    constant_type: Option<&'a str>,
    out: O,
    desk: Desk<'a, Q>,
}

impl<'a, O: RowsOut, Q: RefusalsOut> MapSink<'a, O, Q> {
    pub(crate) fn new(
        rules: &'a MapRules<'a>,
        constant_type: Option<&'a str>,
        out: O,
        files: SinkFiles<'a>,
        quarantine: Q,
    ) -> Self {
        Self { rules, constant_type, out, desk: Desk::new((0, "interactions"), files, quarantine) }
    }

    /// Where rows and refusals go.
    pub(crate) fn parts(&mut self) -> (&mut O, &mut Q) {
        (&mut self.out, &mut self.desk.quarantine)
    }
}

/// Sends an event to its owner and, if it names user and session, an alias to the session.
pub(crate) fn put_rows(event: &Event<'_>, out: &mut impl RowsOut) -> Result<(), BatchError> {
    match (&event.user, &event.session) {
        (Some(user), None) => out.row(false, user, |bytes| put_event(bytes, event)),
        (None, Some(session)) => out.row(true, session, |bytes| put_event(bytes, event)),
        (Some(user), Some(session)) => {
            out.row(false, user, |bytes| put_event(bytes, event))?;
            out.row(true, session, |bytes| put_alias(bytes, session, user, event.time_ms, event.key))
        }
        (None, None) => Ok(()),
    }
}

impl<O: RowsOut, Q: RefusalsOut> RowSink for MapSink<'_, O, Q> {
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
            Ok(Mapped::Event(event)) => put_rows(&event, &mut self.out),
            Ok(Mapped::AfterCutOver) => {
                self.desk.accounts.file(place).after_cut_over += 1;
                Ok(())
            }
            Err(rejection) => self.desk.refuse(place, &rejection, &raw()),
        }
    }

    fn bad_row(&mut self, place: Place, rejection: Rejection, raw: &[u8]) -> Result<(), BatchError> {
        self.desk.accounts.file(place).read += 1;
        self.desk.refuse(place, &rejection, raw)
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        self.desk.unit_done()
    }
}

impl<O: RowsOut, Q: RefusalsOut> Accounting for MapSink<'_, O, Q> {
    fn finish(mut self) -> Result<Accounts, BatchError> {
        self.out.finish()?;
        Ok(self.desk.accounts)
    }
}

/// Sends rows of attributes to their id.
pub(crate) struct AttributeSink<'a, O, Q> {
    table: AttributeTable,
    plan: &'a AttributePlan,
    out: O,
    desk: Desk<'a, Q>,
}

impl<'a, O: RowsOut, Q: RefusalsOut> AttributeSink<'a, O, Q> {
    pub(crate) fn new(
        table: AttributeTable,
        plan: &'a AttributePlan,
        out: O,
        files: SinkFiles<'a>,
        quarantine: Q,
    ) -> Self {
        let number = if table == AttributeTable::Items { 1 } else { 2 };
        Self { table, plan, out, desk: Desk::new((number, table.name()), files, quarantine) }
    }

    /// Where rows and refusals go.
    pub(crate) fn parts(&mut self) -> (&mut O, &mut Q) {
        (&mut self.out, &mut self.desk.quarantine)
    }
}

impl<O: RowsOut, Q: RefusalsOut> RowSink for AttributeSink<'_, O, Q> {
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
                let order = row_order(self.desk.files.first + place.file, place.offset);
                if self.table == AttributeTable::Items {
                    self.out.row(false, &id, |bytes| put_item(bytes, &id, order, &payload))
                } else {
                    self.out.row(false, &id, |bytes| put_attributes(bytes, &id, order, &payload))
                }
            }
            Err(rejection) => self.desk.refuse(place, &rejection, &raw()),
        }
    }

    fn bad_row(&mut self, place: Place, rejection: Rejection, raw: &[u8]) -> Result<(), BatchError> {
        self.desk.accounts.file(place).read += 1;
        self.desk.refuse(place, &rejection, raw)
    }

    fn unit_done(&mut self) -> Result<(), BatchError> {
        self.desk.unit_done()
    }
}

impl<O: RowsOut, Q: RefusalsOut> Accounting for AttributeSink<'_, O, Q> {
    fn finish(mut self) -> Result<Accounts, BatchError> {
        self.out.finish()?;
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

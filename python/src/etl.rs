//! The ETL: its stages for an engine with a shuffle of its own, and the whole of it on one machine.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anabranch_batch::BatchError;
use anabranch_batch::dataset::{self, Interaction};
use anabranch_batch::etl::stages::{
    self, DayWriter, ItemWriter, Plan, PlanRequest, QuarantineWriter, Records, StageOutcome, Stages,
};
use anabranch_batch::etl::{self, EtlRequest, EtlSettings, Published, erased_floors};
use anabranch_batch::input::{InputOptions, resolve};
use anabranch_batch::mapping::Mapping;
use anabranch_events::HistoryKey;
use anabranch_events::erasure::{ErasedName, ErasureKey, KEY_BYTES};
use anabranch_stores::lake::{ObjectStore, StoreOptions};
use pyo3::prelude::*;

use crate::columns::{RecordsIn, RecordsOut, records, records_out};
use crate::compose;
use crate::dataset::{EventArrays, Events};
use crate::errors::{InternalError, Raise, input};
use crate::lake::Lake;
use crate::settings::Settings;

/// Batches that a mapper reads ahead.
const BATCHES_AHEAD: usize = 2;

fn mapping(toml: Option<&str>) -> PyResult<Mapping> {
    toml.map_or_else(|| Ok(Mapping::default()), |text| Mapping::parse(text).raise())
}

/// The data's location and how to reach it: as the given store, or as the environment says.
fn input_options(data: &str, store: Option<&Lake>) -> InputOptions {
    let store = store.map_or_else(compose::store_options, |lake| lake.options().clone());
    InputOptions { data: data.to_owned(), store }
}

/// Floors of forgotten owners.
#[derive(Debug)]
struct Erasures {
    key: Option<ErasureKey>,
    floors: HashMap<ErasedName, i64>,
}

impl Erasures {
    fn new(key: Option<&[u8]>, floors: HashMap<ErasedName, i64>) -> PyResult<Self> {
        let key = key
            .map(|bytes| {
                let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| {
                    input(format!(
                        "erasure_key has {} bytes, {KEY_BYTES} are needed: it is home/keys/erasure.key",
                        bytes.len()
                    ))
                })?;
                PyResult::Ok(ErasureKey::new(bytes))
            })
            .transpose()?;
        if key.is_none() && !floors.is_empty() {
            return Err(input(
                "the lake has an erasure table: give erasure_key, so that forgotten users stay forgotten",
            ));
        }
        Ok(Self { key, floors })
    }

    fn floor(&self, owner: &HistoryKey) -> Option<i64> {
        self.key.as_ref().and_then(|key| self.floors.get(&key.name(owner)).copied())
    }
}

/// Plan (JSON) and floors of forgotten owners.
type Planned = (String, Vec<(String, i64)>);

/// Finds the files of a run.
#[pyfunction]
#[pyo3(signature = (data, lake, data_store, mapping_toml, settings, as_of_ms, until_ms, incremental))]
#[allow(clippy::too_many_arguments)] // one call of the Python half, which names them
pub(crate) fn plan_etl(
    py: Python<'_>,
    data: &str,
    lake: &Lake,
    data_store: Option<&Bound<'_, Lake>>,
    mapping_toml: Option<&str>,
    settings: &str,
    as_of_ms: Option<i64>,
    until_ms: Option<i64>,
    incremental: bool,
) -> PyResult<Planned> {
    let settings = Settings::parse(settings)?;
    let mapping = mapping(mapping_toml)?;
    let input = input_options(data, data_store.map(Bound::get));
    let store = lake.store();
    let (plan, floors) = py.detach(|| -> PyResult<_> {
        let base = if incremental { Some(dataset::Dataset::current(&**store).raise()?) } else { None };
        let plan = Plan::new(PlanRequest {
            input: &input,
            mapping,
            events: settings.events,
            settings: settings.etl,
            as_of_ms,
            until_ms,
            base: base.as_ref(),
        });
        Ok((plan.raise()?, erased_floors(&**store).raise()?))
    })?;
    Stages::new(plan.clone()).raise()?;
    let floors = floors.into_iter().map(|(name, floor)| (name.to_string(), floor)).collect();
    Ok((serde_json::to_string(&plan).map_err(self::input_error)?, floors))
}

fn input_error(error: serde_json::Error) -> PyErr {
    input(format!("the plan: {error}"))
}

/// One run's plan, ready to work with on this machine.
#[pyclass(frozen, module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct EtlPlan {
    stages: Arc<Stages>,
    store: Arc<dyn ObjectStore>,
    data: StoreOptions,
    erasures: Erasures,
    scratch: PathBuf,
}

impl EtlPlan {
    /// The dataset that an incremental run adds to, if it is still the current one.
    fn base(&self) -> PyResult<dataset::Dataset<'_>> {
        let base = self.stages.plan().base.as_ref();
        let base = base.ok_or_else(|| input("the plan is not incremental: give plan_etl incremental=True"))?;
        let dataset = dataset::Dataset::current(&*self.store).raise()?;
        if dataset.number() != base.number {
            return Err(BatchError::Raced { number: dataset.number() }).raise();
        }
        Ok(dataset)
    }

    /// Calls `work` with a place for its records.
    fn collect(
        &self,
        py: Python<'_>,
        work: impl Fn(&dataset::Dataset<'_>, stages::EachRecords<'_>) -> Result<(), BatchError> + Send + Sync,
    ) -> PyResult<Vec<Records>> {
        py.detach(|| {
            let mut all = Vec::new();
            let dataset = self.base()?;
            let each = &mut |records: Records| {
                all.push(records);
                Ok(())
            };
            work(&dataset, each).raise()?;
            Ok(all)
        })
    }
}

#[pymethods]
impl EtlPlan {
    #[new]
    #[pyo3(signature = (plan, kept, floors, lake, data_store, erasure_key, scratch))]
    fn new(
        plan: &str,
        kept: Option<Vec<bool>>,
        floors: Vec<(String, i64)>,
        lake: &Lake,
        data_store: Option<&Bound<'_, Lake>>,
        erasure_key: Option<&[u8]>,
        scratch: Option<PathBuf>,
    ) -> PyResult<Self> {
        let mut plan: Plan = serde_json::from_str(plan).map_err(input_error)?;
        if let Some(kept) = kept {
            let mut kept = kept.into_iter();
            plan.keep(|_| kept.next().unwrap_or(false));
        }
        let floors = floors
            .into_iter()
            .map(|(name, floor)| {
                let parsed = ErasedName::parse(&name);
                Ok((parsed.ok_or_else(|| input(format!("{name:?} is no name of the erasure table")))?, floor))
            })
            .collect::<PyResult<_>>()?;
        Ok(Self {
            stages: Arc::new(Stages::new(plan).raise()?),
            store: lake.store().clone(),
            data: input_options("", data_store.map(Bound::get)).store,
            erasures: Erasures::new(erasure_key, floors)?,
            scratch: compose::scratch(scratch),
        })
    }

    /// The plan, as JSON.
    fn plan(&self) -> PyResult<String> {
        serde_json::to_string(self.stages.plan()).map_err(input_error)
    }

    fn map_file(&self, number: usize) -> Mapper {
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        let (stages, data, scratch) = (Arc::clone(&self.stages), self.data.clone(), self.scratch.clone());
        let thread = std::thread::spawn(move || {
            let each = &mut |records: Records| sender.send(Ok(records)).map_err(|_| BatchError::Stopped);
            match stages.map_file(number, &data, &scratch, each) {
                // Nobody is there to be told.
                Ok(()) | Err(BatchError::Stopped) => {}
                Err(error) => drop(sender.send(Err(error))),
            }
        });
        Mapper { receiver: Mutex::new(Some(receiver)), thread: Some(thread) }
    }

    fn fold(slf: Bound<'_, Self>, partition: u32) -> PyResult<Folder> {
        let folder = slf.get().stages.fold(partition).raise()?;
        Ok(Folder { folder: Some(folder), plan: slf.unbind() })
    }

    /// A writer of `days`, `items` or `quarantine`.
    fn writer(slf: Bound<'_, Self>, kind: &str, partition: u32) -> PyResult<Writer> {
        let kind = match kind {
            "days" => WriterKind::Days(DayWriter::new(Arc::clone(&slf.get().stages))),
            "items" => WriterKind::Items(ItemWriter::default()),
            "quarantine" => WriterKind::Quarantine(QuarantineWriter::new(partition).raise()?),
            other => return Err(input(format!("there is no writer of {other:?}"))),
        };
        Ok(Writer { kind: Some(kind), plan: slf.unbind() })
    }

    /// Publishes; the outcome as JSON.
    fn publish(&self, py: Python<'_>, batches: Vec<RecordsIn<'_>>) -> PyResult<String> {
        let batches: Vec<_> = batches.iter().map(records).collect::<PyResult<_>>()?;
        let StageOutcome { report, published } =
            py.detach(|| stages::publish(&self.stages, &*self.store, &batches)).raise()?;
        outcome(&report, published)
    }

    fn interaction_records<'py>(&self, py: Python<'py>, file: &str) -> PyResult<Vec<RecordsOut<'py>>> {
        let all = self.collect(py, |dataset, each| stages::interaction_records(&self.stages, dataset, file, each))?;
        Ok(all.into_iter().map(|records| records_out(py, records)).collect())
    }

    fn history_records<'py>(&self, py: Python<'py>, file: &str) -> PyResult<Vec<RecordsOut<'py>>> {
        let all = self.collect(py, |dataset, each| stages::history_records(dataset, &*self.store, file, each))?;
        Ok(all.into_iter().map(|records| records_out(py, records)).collect())
    }

    fn quarantine_records<'py>(&self, py: Python<'py>, file: &str) -> PyResult<Vec<RecordsOut<'py>>> {
        let all = self
            .collect(py, |dataset, each| stages::quarantine_records(&self.stages, dataset, &*self.store, file, each))?;
        Ok(all.into_iter().map(|records| records_out(py, records)).collect())
    }
}

fn outcome(report: &etl::report::EtlReport, published: Option<Published>) -> PyResult<String> {
    let (word, number) = match published {
        Some(Published::New(number)) => (Some("new"), Some(number)),
        Some(Published::Unchanged(number)) => (Some("unchanged"), Some(number)),
        None => (None, None),
    };
    let json = serde_json::json!({ "report": report, "published": word, "number": number });
    serde_json::to_string(&json).map_err(input_error)
}

/// What a thread that maps a file sends.
type Mapped = Receiver<Result<Records, BatchError>>;

/// The records of one file, read by a thread of its own. Dropping it ends the thread at its next batch.
#[pyclass(module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct Mapper {
    receiver: Mutex<Option<Mapped>>,
    thread: Option<JoinHandle<()>>,
}

#[pymethods]
impl Mapper {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<RecordsOut<'py>>> {
        let receiver = &self.receiver;
        let next = py.detach(|| {
            let mut receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
            let next = receiver.as_ref().map(Receiver::recv)?;
            if !matches!(next, Ok(Ok(_))) {
                *receiver = None;
            }
            Some(next)
        });
        match next {
            None => Ok(None),
            Some(Ok(records)) => records.raise().map(|records| Some(records_out(py, records))),
            Some(Err(_)) => match self.thread.take().map(JoinHandle::join) {
                None | Some(Ok(())) => Ok(None),
                Some(Err(_)) => Err(InternalError::new_err("mapping the file panicked; please report this")),
            },
        }
    }
}

/// The fold of one partition.
#[pyclass(module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct Folder {
    folder: Option<stages::Folder>,
    plan: Py<EtlPlan>,
}

fn finished() -> PyErr {
    input("it is finished already")
}

#[pymethods]
impl Folder {
    fn push<'py>(&mut self, py: Python<'py>, batch: RecordsIn<'py>) -> PyResult<RecordsOut<'py>> {
        let batch = records(&batch)?;
        let plan = self.plan.get();
        let folder = self.folder.as_mut().ok_or_else(finished)?;
        let mut out = Records::default();
        py.detach(|| folder.push(batch, &|owner| plan.erasures.floor(owner), &mut out)).raise()?;
        Ok(records_out(py, out))
    }

    fn finish<'py>(&mut self, py: Python<'py>) -> PyResult<RecordsOut<'py>> {
        let plan = self.plan.get();
        let folder = self.folder.take().ok_or_else(finished)?;
        let mut out = Records::default();
        py.detach(|| folder.finish(&*plan.store, &|owner| plan.erasures.floor(owner), &mut out)).raise()?;
        Ok(records_out(py, out))
    }
}

#[derive(Debug)]
enum WriterKind {
    Days(DayWriter),
    Items(ItemWriter),
    Quarantine(QuarantineWriter),
}

/// Writes data files of one kind.
#[pyclass(module = "anabranch._core")]
#[derive(Debug)]
pub(crate) struct Writer {
    kind: Option<WriterKind>,
    plan: Py<EtlPlan>,
}

#[pymethods]
impl Writer {
    fn push<'py>(&mut self, py: Python<'py>, batch: RecordsIn<'py>) -> PyResult<RecordsOut<'py>> {
        let batch = records(&batch)?;
        let plan = self.plan.get();
        let kind = self.kind.as_mut().ok_or_else(finished)?;
        let mut out = Records::default();
        py.detach(|| match kind {
            WriterKind::Days(writer) => writer.push(batch, &*plan.store, &mut out),
            WriterKind::Items(writer) => writer.push(&plan.stages, batch, &*plan.store, &mut out),
            WriterKind::Quarantine(writer) => writer.push(batch, &*plan.store, &mut out),
        })
        .raise()?;
        Ok(records_out(py, out))
    }

    fn finish<'py>(&mut self, py: Python<'py>) -> PyResult<RecordsOut<'py>> {
        let plan = self.plan.get();
        let kind = self.kind.take().ok_or_else(finished)?;
        let mut out = Records::default();
        py.detach(|| match kind {
            WriterKind::Days(mut writer) => writer.finish(&*plan.store, &mut out),
            WriterKind::Items(writer) => writer.finish(&*plan.store, &mut out),
            WriterKind::Quarantine(mut writer) => writer.finish(&*plan.store, &mut out),
        })
        .raise()?;
        Ok(records_out(py, out))
    }
}

/// The local ETL on all threads; the outcome as JSON.
#[pyfunction]
#[pyo3(signature = (data, lake, mapping_toml, settings, as_of_ms, until_ms, erasure_key, scratch, memory_bytes))]
#[allow(clippy::too_many_arguments)] // one call of the Python half, which names them
pub(crate) fn run_etl(
    py: Python<'_>,
    data: &str,
    lake: &Lake,
    mapping_toml: Option<&str>,
    settings: &str,
    as_of_ms: Option<i64>,
    until_ms: Option<i64>,
    erasure_key: Option<&[u8]>,
    scratch: Option<PathBuf>,
    memory_bytes: u64,
) -> PyResult<String> {
    let settings = Settings::parse(settings)?;
    let (mapping, types) = (mapping(mapping_toml)?, settings.types()?);
    let input = input_options(data, None);
    let threads = crate::threads::num_threads()?;
    let scratch = compose::scratch(scratch);
    let etl_settings: &EtlSettings = &settings.etl;
    py.detach(|| {
        let store = &**lake.store();
        let erasures = Erasures::new(erasure_key, erased_floors(store).raise()?)?;
        let clock = compose::stopwatch();
        let request = EtlRequest {
            input: &input,
            mapping: &mapping,
            types: &types,
            settings: etl_settings,
            as_of_ms,
            until_ms,
            erased: &|owner| erasures.floor(owner),
            scratch: &scratch,
            threads,
            memory_bytes,
            progress: &|_| {},
            clock_s: &clock,
        };
        let done = etl::run(&request, store).raise()?;
        outcome(&done.report, done.published)
    })
}

/// Valid events, and refused rows as JSON texts, in file order.
#[pyfunction]
#[pyo3(signature = (data, data_store, mapping_toml, settings, as_of_ms, scratch))]
pub(crate) fn read_events<'py>(
    py: Python<'py>,
    data: &str,
    data_store: Option<&Bound<'py, Lake>>,
    mapping_toml: Option<&str>,
    settings: &str,
    as_of_ms: Option<i64>,
    scratch: Option<PathBuf>,
) -> PyResult<(EventArrays<'py>, Vec<String>)> {
    let types = Settings::parse(settings)?.types()?;
    let mapping = mapping(mapping_toml)?;
    let location = input_options(data, data_store.map(Bound::get));
    let scratch = compose::scratch(scratch);
    let read = py.detach(|| {
        let files = resolve(&location, &mapping.interactions.files, false)?;
        let as_of_ms = as_of_ms.unwrap_or_else(|| files.iter().map(|file| file.modified_ms).max().unwrap_or(0));
        std::fs::create_dir_all(&scratch).map_err(|source| BatchError::Scratch {
            action: "create",
            place: scratch.clone(),
            source,
        })?;
        let (mut events, mut refused) = (Events::default(), Vec::new());
        etl::read_events(&files, &mapping.interactions, &types, as_of_ms, &scratch, &mut |event| {
            match event {
                Ok(event) => events.push(&Interaction {
                    user: event.user.as_deref().map(str::to_owned),
                    session: event.session.as_deref().map(str::to_owned),
                    item: event.item.into_owned(),
                    event_type: types.get(event.kind).name.to_string(),
                    value: event.value,
                    time_ms: event.time_ms,
                    event: event.key,
                })?,
                Err(entry) => refused.push(entry),
            }
            Ok(())
        })?;
        Ok::<_, BatchError>((events, refused))
    });
    let (events, refused) = read.raise()?;
    let refused = refused.iter().map(|entry| serde_json::to_string(entry).map_err(input)).collect::<PyResult<_>>()?;
    Ok((events.out(py), refused))
}

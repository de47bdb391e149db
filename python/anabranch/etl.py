"""The ETL: its stages for an engine with a shuffle of its own, the whole of it on one machine, and the dataset that it publishes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import _arrow, _core
from ._core import InputError, Lake
from ._model import as_lake
from ._settings import Settings, settings_json

if TYPE_CHECKING:
    import pyarrow as pa

    from .training import ItemIndex

Path = str | PathLike[str]


class Record(IntEnum):
    ROW = 1
    ITEM = 2
    QUARANTINE = 3
    ACCOUNT = 4
    CLEAN = 5
    FILE = 6
    COUNTS = 7


@dataclass(frozen=True)
class PlannedFile:
    table: str
    index: int
    name: str
    place: str
    size: int
    modified_ms: int


class EtlPlan:
    """One run of the ETL, for an engine that brings its own shuffle. Picklable; the story stands in `__init__.pyi`."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = dict(state)
        self.lake: Lake = state["lake"]
        self._core = _core.EtlPlan(
            state["plan"],
            state["kept"],
            state["floors"],
            self.lake,
            state["data_store"],
            state["erasure_key"],
            state["scratch"],
        )
        self._plan = json.loads(self._core.plan())
        self.files = [PlannedFile(**file) for file in self._plan["files"]]
        self.as_of_ms: int = self._plan["as_of_ms"]

    def __reduce__(self) -> tuple[Any, ...]:
        return EtlPlan, ({**self._state, "plan": self._core.plan(), "kept": None},)

    @property
    def input_bytes(self) -> int:
        sizes = {(file.table, file.name): file.size for file in self.files}
        base = self._plan["base"]
        for line in base["report"]["files"] if base else ():
            sizes.setdefault((line["table"], line["file"]), line["bytes"])
        return sum(sizes.values())

    @property
    def base(self) -> Dataset | None:
        if self._plan["base"] is None:
            return None
        dataset = Dataset(self.lake)
        if dataset.number != self._plan["base"]["number"]:
            raise _core.RetryError(f"dataset {self._plan['base']['number']} is no longer the current one; plan again")
        return dataset

    def map_file(self, file: PlannedFile | int) -> Iterator[pa.RecordBatch]:
        for records in self._core.map_file(self._number(file)):
            yield _arrow.records_out(records)

    def fold(self, partition: int, batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        yield from _run(self._core.fold(partition), batches)

    def write_days(self, batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        yield from _run(self._core.writer("days", 0), batches)

    def write_items(self, batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        yield from _run(self._core.writer("items", 0), batches)

    def write_quarantine(self, partition: int, batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        yield from _run(self._core.writer("quarantine", partition), batches)

    def publish(self, records: Iterable[Any]) -> dict[str, Any]:
        return json.loads(self._core.publish([_arrow.records_in(batch) for batch in _arrow.all_batches(records)]))

    def rows_of_interactions(self, file: str) -> Iterator[pa.RecordBatch]:
        for records in self._core.interaction_records(file):
            yield _arrow.records_out(records)

    def histories_to_join(self, file: str) -> Iterator[pa.RecordBatch]:
        for records in self._core.history_records(file):
            yield _arrow.records_out(records)

    def carried_quarantine(self, file: str) -> Iterator[pa.RecordBatch]:
        for records in self._core.quarantine_records(file):
            yield _arrow.records_out(records)

    def _number(self, file: PlannedFile | int) -> int:
        if isinstance(file, int):
            return file
        try:
            return self.files.index(file)
        except ValueError:
            raise InputError(f"{file.name} is not a file of this plan") from None


def _run(stage: Any, batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
    """Gives a stage its batches; what it gives back goes on, unless it is empty."""
    for batch in _arrow.all_batches(batches):
        if batch.num_rows:
            yield from _told(stage.push(_arrow.records_in(batch)))
    yield from _told(stage.finish())


def _told(records: Any) -> Iterator[pa.RecordBatch]:
    if len(records[0]):
        yield _arrow.records_out(records)


def plan_etl(
    data: str,
    lake: Lake | Path,
    *,
    mapping: str | None = None,
    settings: Settings | None = None,
    as_of_ms: int | None = None,
    until_ms: int | None = None,
    erasure_key: bytes | None = None,
    keep: Callable[[PlannedFile], bool] | None = None,
    incremental: bool = False,
    data_store: Lake | None = None,
    scratch: Path | None = None,
) -> EtlPlan:
    lake = as_lake(lake)
    plan, floors = _core.plan_etl(
        str(data), lake, data_store, mapping, settings_json(settings), as_of_ms, until_ms, incremental
    )
    kept = None
    if keep is not None:
        kept = [bool(keep(PlannedFile(**file))) for file in json.loads(plan)["files"]]
    return EtlPlan(
        {
            "plan": plan,
            "kept": kept,
            "floors": floors,
            "lake": lake,
            "data_store": data_store,
            "erasure_key": erasure_key,
            "scratch": scratch,
        }
    )


def run_etl(
    data: str,
    lake: Lake | Path,
    *,
    mapping: str | None = None,
    settings: Settings | None = None,
    as_of_ms: int | None = None,
    until_ms: int | None = None,
    erasure_key: bytes | None = None,
    scratch: Path | None = None,
    memory_bytes: int = 1 << 30,
) -> dict[str, Any]:
    return json.loads(
        _core.run_etl(
            str(data), as_lake(lake), mapping, settings_json(settings), as_of_ms, until_ms, erasure_key, scratch, memory_bytes
        )
    )


def read_events(
    data: str,
    *,
    mapping: str | None = None,
    settings: Settings | None = None,
    as_of_ms: int | None = None,
    data_store: Lake | None = None,
    scratch: Path | None = None,
) -> tuple[pa.Table, pa.Table]:
    pa = _arrow.pyarrow()
    events, refused = _core.read_events(str(data), data_store, mapping, settings_json(settings), as_of_ms, scratch)
    return pa.Table.from_batches([_arrow.events_out(events)]), _quarantine(refused)


def _quarantine(lines: list[str]) -> pa.Table:
    pa = _arrow.pyarrow()
    return pa.Table.from_pylist([json.loads(line) for line in lines], schema=_arrow.schema("QUARANTINE_SCHEMA"))


class Dataset:
    """The newest published dataset of a lake. Picklable."""

    def __init__(self, lake: Lake | Path) -> None:
        self.lake = as_lake(lake)
        self._core = _core.Dataset(self.lake)
        self.number: int = self._core.number

    def __reduce__(self) -> tuple[Any, ...]:
        return _dataset, (self.lake, self.number)

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self._core.report())

    def files(self, kind: str) -> list[str]:
        return self._core.files(kind)

    @property
    def days(self) -> list[str]:
        return self._core.days

    def interactions(self, file: str | None = None) -> Iterator[pa.RecordBatch]:
        for path in self._paths("interactions", file):
            for events in self._core.interactions(path):
                yield _arrow.events_out(events)

    def histories(self, file: str | None = None) -> Iterator[pa.RecordBatch]:
        pa = _arrow.pyarrow()
        for path in self._paths("histories", file):
            for columns in self._core.histories(path):
                yield _arrow.batch_out("HISTORIES_SCHEMA", [_arrow.binary_out(column, pa.binary()) for column in columns])

    def quarantine(self) -> pa.Table:
        return _quarantine(self._core.quarantine())

    def item_ids(self, file: str | None = None) -> pa.Array:
        return _arrow.binary_out(self._core.item_ids(file), _arrow.pyarrow().string())

    def bots(self) -> list[str]:
        return self._core.bots()

    def titles(self, index: ItemIndex) -> list[tuple[str, str]]:
        return self._core.titles(index._core)

    @property
    def end_ms(self) -> int:
        return self._core.end_ms

    def _paths(self, kind: str, file: str | None) -> list[str]:
        return self.files(kind) if file is None else [file]


def _dataset(lake: Lake, number: int) -> Dataset:
    dataset = Dataset(lake)
    if dataset.number != number:
        raise _core.RetryError(f"dataset {number} is no longer the current one; read the newer one ({dataset.number})")
    return dataset

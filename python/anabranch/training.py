"""Training: rows by stages or at once, a snapshot from its parts, the local trainer whole, the back-test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _arrow, _core
from ._arrays import doubles, floats, indices, matrix, offsets, signed
from ._core import Lake
from ._model import as_lake
from ._settings import Settings, settings_json

if TYPE_CHECKING:
    import pyarrow as pa

    from .vectors import VectorDatabase

Path = str | PathLike[str]


class ItemIndex:
    """The items of a model: ids in order of their bytes. Picklable."""

    __slots__ = ("_core",)

    def __init__(self, ids: Iterable[str]) -> None:
        if hasattr(ids, "to_pylist"):
            ids = ids.to_pylist()
        self._core = _core.ItemIndex(list(ids))

    def __reduce__(self) -> tuple[Any, ...]:
        # Bytes and not a text an item: every Python worker unpickles it.
        return _of_columns, self._core.columns()

    def __len__(self) -> int:
        return len(self._core)

    @property
    def ids(self) -> list[str]:
        return self._core.ids

    def digest(self) -> bytes:
        offsets, ids = self._core.columns()
        return hashlib.sha256(offsets.tobytes() + ids.tobytes()).digest()

    def retain(self, is_used: Any) -> ItemIndex:
        return _wrapped(self._core.retain(np.ascontiguousarray(is_used, dtype=np.bool_)))


def _of_columns(offsets: np.ndarray, ids: np.ndarray) -> ItemIndex:
    return _wrapped(_core.ItemIndex.of_columns((offsets, ids)))


def _wrapped(core: Any) -> ItemIndex:
    index = ItemIndex.__new__(ItemIndex)
    index._core = core
    return index


def route_histories(histories: Any, settings: Settings | None = None) -> pa.RecordBatch:
    pa = _arrow.pyarrow()
    made = []
    for batch in _arrow.batches(histories):
        key, history = _arrow.columns(batch, "HISTORIES_SCHEMA")
        routed = _core.route_histories(_arrow.binary_in(key), _arrow.binary_in(history), settings_json(settings))
        made.append(_arrow.batch_out("ROUTED_SCHEMA", [_arrow.binary_out(routed, pa.binary()), key, history]))
    return _arrow.one_batch("ROUTED_SCHEMA", made)


def join_histories(batches: Iterable[Any], settings: Settings | None = None) -> Iterator[pa.RecordBatch]:
    """Effective histories from routed ones, those of one key together and keys ascending."""
    pa = _arrow.pyarrow()
    text = settings_json(settings)

    def joined(group: pa.RecordBatch) -> pa.RecordBatch:
        columns = [_arrow.binary_in(column) for column in _arrow.columns(group, "ROUTED_SCHEMA")]
        found = _core.join_histories(*columns, text)
        return _arrow.batch_out("HISTORIES_SCHEMA", [_arrow.binary_out(column, pa.binary()) for column in found])

    for group in _whole_keys(batches):
        batch = joined(group)
        if batch.num_rows:
            yield batch


def _whole_keys(batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
    """Batches cut anew so that each holds every row of its keys."""
    held: list[pa.RecordBatch] = []
    for batch in _arrow.all_batches(batches):
        if batch.num_rows == 0:
            continue
        key = batch.column("key")
        last, cut = key[-1], batch.num_rows
        while cut > 0 and key[cut - 1] == last:
            cut -= 1
        if cut > 0 or (held and held[-1].column("key")[-1] != last):
            yield _arrow.joined([*held, batch.slice(0, cut)])
            held = []
        held.append(batch.slice(cut))
    if held:
        yield _arrow.joined(held)


class RowMaker:
    """Routed histories to training rows, as `anabranch train` makes them."""

    def __init__(self, index: ItemIndex, settings: Settings | None, *, as_of_ms: int, bots: Iterable[str] = ()) -> None:
        self._maker = _core.RowMaker(index._core, settings_json(settings), as_of_ms, list(bots))

    def rows(self, batches: Iterable[Any]) -> Iterator[pa.RecordBatch]:
        for batch in _arrow.all_batches(batches):
            columns = (_arrow.binary_in(column) for column in _arrow.columns(batch, "ROUTED_SCHEMA"))
            yield from _rows(self._maker.push(*columns))
        yield from _rows(self._maker.finish())

    @property
    def demand(self) -> np.ndarray:
        return self._maker.demand

    @property
    def digest(self) -> bytes:
        return self._maker.digest

    @property
    def newest_ms(self) -> int | None:
        return self._maker.newest_ms


def _rows(made: Any) -> Iterator[pa.RecordBatch]:
    pa = _arrow.pyarrow()
    keys, starts, items, weights = made
    if len(starts) > 1:
        arrays = [
            _arrow.binary_out(keys, pa.binary()),
            _arrow.list_out(starts, _arrow.numbers_out(signed(items), pa.int32())),
            _arrow.list_out(starts, _arrow.numbers_out(weights, pa.float32())),
        ]
        yield _arrow.batch_out("ROWS_SCHEMA", arrays)


@dataclass(frozen=True)
class TrainingRows:
    keys: list[bytes]
    index: ItemIndex
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    trend: np.ndarray
    newest_ms: int


def training_rows(lake: Lake | Path, settings: Settings | None = None) -> TrainingRows:
    keys, index, starts, items, weights, trend, newest_ms = _core.training_rows(as_lake(lake), settings_json(settings))
    return TrainingRows(keys, _wrapped(index), starts.view(np.int64), signed(items), weights, trend, newest_ms)


def write_snapshot(
    index: ItemIndex,
    *,
    settings: Settings | None,
    item_factors: Any,
    item_gramian: Any,
    neighbours: tuple[Any, Any, Any],
    popularity: Any,
    trend: Any,
    user_count: int,
    interaction_count: int,
    as_of_ms: int,
    titles: Sequence[tuple[str, str]] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> bytes:
    starts, items, scores = neighbours
    parts = (
        matrix(item_factors, "item_factors"),
        doubles(item_gramian),
        (offsets(starts), indices(items, "neighbours"), floats(scores).reshape(-1)),
        floats(popularity).reshape(-1),
        floats(trend).reshape(-1),
    )
    return _core.write_snapshot(
        index._core,
        settings_json(settings),
        parts,
        (user_count, interaction_count),
        as_of_ms,
        list(titles or []),
        json.dumps(dict(metrics or {})),
    )


def train(
    lake: Lake | Path,
    settings: Settings | None = None,
    *,
    evaluate: bool = True,
    promote: bool = True,
    vectors: VectorDatabase | None = None,
    scratch: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    database = vectors and vectors._core
    return json.loads(_core.train(as_lake(lake), settings_json(settings), (evaluate, promote), database, scratch, progress))


def backtest(lake: Lake | Path, settings: Settings | None = None) -> list[dict[str, Any]]:
    return json.loads(_core.backtest(as_lake(lake), settings_json(settings)))


def backtest_metrics(table: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return json.loads(_core.backtest_metrics(json.dumps(list(table))))

"""Snapshots that answer, the registry, evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from . import _arrow, _core
from ._arrays import csr, indices, signed
from ._core import InputError, Lake

Path = str | PathLike[str]


def as_lake(lake: Lake | Path) -> Lake:
    return lake if isinstance(lake, Lake) else Lake(lake)


class Registry:
    def __init__(self, lake: Lake | Path) -> None:
        self.lake = as_lake(lake)
        self._registry = _core.Registry(self.lake)

    def __reduce__(self) -> tuple[Any, ...]:
        return Registry, (self.lake,)

    def publish(self, snapshot: Path | bytes, metrics: Any = None) -> dict[str, Any]:
        text = json.dumps(metrics)
        if isinstance(snapshot, (bytes, bytearray, memoryview)):
            return json.loads(self._registry.publish_bytes(bytes(snapshot), text))
        return json.loads(self._registry.publish_file(snapshot, text))

    def promote(self, version: str, reason: str = "trained") -> dict[str, Any]:
        return json.loads(self._registry.promote(version, reason))

    def rollback(self, reason: str) -> dict[str, Any]:
        return json.loads(self._registry.rollback(reason))

    def current(self) -> dict[str, Any] | None:
        pointer = self._registry.current()
        return None if pointer is None else json.loads(pointer)

    def list(self) -> list[dict[str, Any]]:
        return json.loads(self._registry.list())

    def fetch(self, folder: Path, version: str | None = None) -> str:
        return str(self._registry.fetch(folder, version)[0])

    def open(self, folder: Path, version: str | None = None) -> Model:
        path, version = self._registry.fetch(folder, version)
        return Model.open(path, version)


class Model:
    def __init__(self, core: _core.Model) -> None:
        self._core = core

    @staticmethod
    def open(path: Path, version: str | None = None) -> Model:
        return Model(_core.Model.open(path, version))

    @staticmethod
    def from_bytes(data: bytes, version: str | None = None) -> Model:
        return Model(_core.Model.from_bytes(data, version))

    @property
    def version(self) -> str:
        return self._core.version

    @property
    def meta(self) -> dict[str, Any]:
        return json.loads(self._core.meta())

    @property
    def dim(self) -> int:
        return self._core.dim

    def __len__(self) -> int:
        return self._core.item_count

    @property
    def item_ids(self) -> list[str]:
        return self._core.item_ids

    @property
    def item_factors(self) -> np.ndarray:
        return self._core.item_factors

    @property
    def item_gramian(self) -> np.ndarray:
        return self._core.item_gramian

    @property
    def popularity(self) -> np.ndarray:
        return self._core.popularity

    @property
    def trend(self) -> np.ndarray:
        return self._core.trend

    def item_index(self, item_id: str) -> int | None:
        return self._core.item_index(item_id)

    def neighbours(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        items, scores = self._core.neighbours(item)
        return signed(items), scores

    def rows(self, histories: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts, items, weights = self._core.rows(list(histories))
        return starts.view(np.int64), signed(items), weights

    def fold_in(self, rows: Any) -> np.ndarray:
        return self._core.fold_in(csr(rows)[0])

    def recommend(
        self, rows: Any, N: int = 10, *, filter_already_liked_items: bool = True, filter_items: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        hidden = indices([] if filter_items is None else filter_items, "filter_items")
        return self._core.recommend(csr(rows)[0], N, filter_already_liked_items, hidden)

    def recommend_histories(self, histories: Sequence[bytes], N: int = 10, *, hide: str = "seen") -> tuple[np.ndarray, np.ndarray]:
        return self._core.recommend_histories(list(histories), N, hide)

    def similar_items(self, item: Any, N: int = 10) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = self._core.similar_items(indices(np.atleast_1d(item), "item"), N)
        return one_or_many(item, ids, scores)

    def bulk_lists(self, histories: Any, N: int = 20, *, hide: str = "seen") -> Any:
        pa = _arrow.pyarrow()
        made = []
        for batch in _arrow.batches(histories):
            keys, held = (_arrow.binary_in(column) for column in _arrow.columns(batch, "HISTORIES_SCHEMA"))
            users, ranks, items, scores = self._core.bulk_lists(keys, held, N, hide)
            arrays = [
                _arrow.binary_out(users, pa.string()),
                _arrow.numbers_out(ranks, pa.int64()),
                _arrow.binary_out(items, pa.string()),
                _arrow.numbers_out(scores, pa.float64()),
            ]
            made.append(_arrow.batch_out("BULK_SCHEMA", arrays))
        return _arrow.one_batch("BULK_SCHEMA", made)

    def evaluate(
        self,
        rows: Any,
        test_items: Any,
        cutoff: int = 20,
        *,
        seen: Any = None,
        hide_seen: bool = False,
        unknown: Any = None,
    ) -> dict[str, Any]:
        train, _ = csr(rows)
        tests, (users, _) = csr(test_items)
        held = train if seen is None else csr(seen)[0]
        return json.loads(self._core.evaluate(train, tests, unknown_counts(unknown, users), held, cutoff, hide_seen))


def unknown_counts(unknown: Any, users: int) -> np.ndarray:
    return np.zeros(users, dtype=np.uint64) if unknown is None else np.ascontiguousarray(unknown, dtype=np.uint64)


def one_or_many(asked: Any, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The list itself for one question, cut to its length; all of them for several."""
    if np.ndim(asked) > 0:
        return ids, scores
    length = int((ids[0] >= 0).sum())
    return ids[0, :length], scores[0, :length]


def evaluate_lists(lists: Any, test_items: Any, cutoff: int = 20, *, item_count: int, unknown: Any = None) -> dict[str, Any]:
    tests, (users, _) = csr(test_items)
    array = np.ascontiguousarray(lists, dtype=np.int64)
    if array.ndim != 2:
        raise InputError(f"lists: an array [users, n] is needed, found {list(array.shape)}")
    return json.loads(_core.evaluate_lists(array, tests, unknown_counts(unknown, users), cutoff, item_count))

"""The pieces of iALS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import _core
from ._arrays import csr, doubles, floats, indices, matrix, offsets, signed
from ._core import GRAMIAN_GROUP_BLOCKS, InputError
from ._settings import Settings, table_json

Ials = Settings | Mapping[str, Any] | str | None


def initial_factors(item_ids: Sequence[str], ials: Ials) -> np.ndarray:
    return _core.initial_factors(list(item_ids), table_json(ials, "ials"))


def gramian(factors: Any) -> np.ndarray:
    return _core.gramian(matrix(factors))


def gramian_blocks(factors: Any) -> np.ndarray:
    return _core.gramian_blocks(matrix(factors))


def gramian_groups(blocks: Any) -> np.ndarray:
    return _core.gramian_sums(*_matrices(blocks, "blocks"), GRAMIAN_GROUP_BLOCKS)


def gramian_sum(groups: Any, init: Any = None) -> np.ndarray:
    flat, dim = _matrices(groups, "groups")
    if init is not None:
        flat = np.concatenate([doubles(init), flat])
    count = len(flat) // (dim * dim)
    if count == 0:
        raise InputError("groups: there is nothing to add up")
    return _core.gramian_sums(flat, dim, count)[0]


def _matrices(values: Any, what: str) -> tuple[np.ndarray, int]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise InputError(f"{what}: an array [n, dim, dim] is needed, found {list(array.shape)}")
    return doubles(array), array.shape[1]


def half_step(
    indptr: Any,
    indices: Any,
    data: Any,
    factors: Any,
    gramian: Any,
    ials: Ials,
    *,
    count: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    fixed = matrix(factors)
    rows = _rows(indptr, indices, data)
    count = len(fixed) if count is None else count
    if out is not None and (out.dtype != np.float32 or out.ndim != 2 or not out.flags.c_contiguous or not out.flags.writeable):
        raise InputError("out: a writeable float32 array [rows, dim], row by row, is needed")
    solved = _core.half_step(rows, fixed, doubles(gramian), table_json(ials, "ials"), count, out)
    return out if out is not None else solved


def _rows(indptr: Any, index: Any, data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return offsets(indptr), indices(index), floats(data).reshape(-1)


class HalfStep:
    __slots__ = ("_step",)

    def __init__(self, entry_counts: Any, gramian: Any, ials: Ials, *, count: int) -> None:
        self._step = _core.HalfStep(offsets(entry_counts), doubles(gramian), table_json(ials, "ials"), count)

    def add(self, indptr: Any, indices: Any, data: Any, factors: Any) -> None:
        self._step.add(_rows(indptr, indices, data), matrix(factors))

    def finish(self) -> np.ndarray:
        return self._step.finish()


def popularity(indptr: Any, data: Any) -> np.ndarray:
    return _core.popularity(offsets(indptr), floats(data).reshape(-1))


def neighbours(user_items: Any, item_count: int, settings: Ials = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, _ = csr(user_items)
    starts, items, scores = _core.neighbours(rows, item_count, table_json(settings, "neighbours"))
    return starts.view(np.int64), signed(items), scores


def neighbour_rows(
    indptr: Any, indices: Any, data: Any, item_count: int, settings: Ials = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows, _ = csr((indptr, indices, data))
    starts, items, weights, scales = _core.neighbour_rows(rows, item_count, table_json(settings, "neighbours"))
    return starts.view(np.int64), signed(items), weights, scales


def neighbour_squares(indptr: Any, users: Any, data: Any, scales: Any) -> np.ndarray:
    rows, _ = csr((indptr, users, data))
    return _core.neighbour_squares(rows, floats(scales))


def neighbours_of(
    first: int, indptr: Any, users: Any, data: Any, *, rows: Any, scales: Any, squares: Any, settings: Ials = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    by_item, _ = csr((indptr, users, data))
    all_rows, _ = csr(rows)
    starts, items, scores = _core.neighbours_of(
        first, by_item, all_rows, floats(scales), doubles(squares), table_json(settings, "neighbours")
    )
    return starts.view(np.int64), signed(items), scores


def train_ials(user_items: Any, item_ids: Sequence[str], ials: Ials) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, _ = csr(user_items)
    return _core.train_ials(rows, list(item_ids), table_json(ials, "ials"))


def trend(demand: Any, settings: Settings | Mapping[str, Any] | str | None) -> np.ndarray:
    counts = np.ascontiguousarray(demand, dtype=np.uint64)
    if counts.ndim != 2:
        raise InputError(f"demand: an array [items, 2] is needed, found {list(counts.shape)}")
    return _core.trend(counts, table_json(settings, "trend"))

"""Arguments into the arrays that the core reads: without a copy where they fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._core import InputError


def floats(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)


def doubles(values: Any) -> np.ndarray:
    """Flat, in order."""
    return np.ascontiguousarray(values, dtype=np.float64).reshape(-1)


def matrix(values: Any, what: str = "factors") -> np.ndarray:
    array = floats(values)
    if array.ndim != 2:
        raise InputError(f"{what}: an array of two dimensions is needed, found {array.ndim}")
    return array


def offsets(values: Any) -> np.ndarray:
    """int64 offsets as the core's unsigned ones: negative numbers become huge, which the core refuses."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise InputError(f"indptr: whole numbers are needed, found {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.int64).reshape(-1).view(np.uint64)


def indices(values: Any, what: str = "indices") -> np.ndarray:
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, dtype=np.uint32)
    if array.dtype.kind not in "iu":
        raise InputError(f"{what}: whole numbers are needed, found {array.dtype}")
    if array.dtype.itemsize != 4:
        if array.min() < 0 or array.max() >= 1 << 32:
            raise InputError(f"{what}: an index is negative or not below 2**32")
        array = array.astype(np.uint32)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint32)


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def csr(rows: Any) -> tuple[Arrays, tuple[int, int | None]]:
    """A scipy matrix or (indptr, indices, data) as the core takes it, and its shape (columns unknown of bare arrays)."""
    shape: tuple[int, int | None] | None = None
    if not isinstance(rows, (tuple, list)):
        if not hasattr(rows, "tocsr"):
            raise InputError("rows: give a scipy sparse matrix, or its arrays (indptr, indices, data)")
        rows = rows.tocsr()
        shape = rows.shape
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        rows = (rows.indptr, rows.indices, rows.data)
    if len(rows) != 3:
        raise InputError(f"rows: three arrays are needed (indptr, indices, data), found {len(rows)}")
    arrays = (offsets(rows[0]), indices(rows[1]), floats(rows[2]).reshape(-1))
    return arrays, shape or (max(len(arrays[0]) - 1, 0), None)


def signed(ids: np.ndarray) -> np.ndarray:
    """The core's unsigned indices as the int32 that people expect."""
    return ids.view(np.int32) if ids.dtype == np.uint32 else ids.view(np.int64)

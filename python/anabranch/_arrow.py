"""Arrow in and out. A column crosses to the core as its buffers (offsets and bytes), so nothing is copied and the core needs no Arrow library.

pyarrow is imported when this is first used for something: `implicit`'s classes work without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ._core import InputError

if TYPE_CHECKING:
    import pyarrow as pa

RECORD_DDL = "kind tinyint, part bigint, key binary, row binary"

_SCHEMAS = {
    "RECORD_SCHEMA": lambda pa: [("kind", pa.int8()), ("part", pa.int64()), ("key", pa.binary()), ("row", pa.binary())],
    "EVENTS_SCHEMA": lambda pa: [
        ("user_id", pa.string()),
        ("session_id", pa.string()),
        ("item_id", pa.string()),
        ("event_type", pa.string()),
        ("event_value", pa.float32()),
        ("time_ms", pa.timestamp("ms", tz="UTC")),
        ("event_id", pa.string()),
    ],
    "QUARANTINE_SCHEMA": lambda pa: [
        ("table", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("row", pa.int64()),
        ("code", pa.string()),
        ("detail", pa.string()),
        ("raw", pa.string()),
        ("raw_base64", pa.string()),
    ],
    "HISTORIES_SCHEMA": lambda pa: [("key", pa.binary()), ("history", pa.binary())],
    "ROUTED_SCHEMA": lambda pa: [("key", pa.binary()), ("source", pa.binary()), ("history", pa.binary())],
    "ROWS_SCHEMA": lambda pa: [("key", pa.binary()), ("items", pa.list_(pa.int32())), ("weights", pa.list_(pa.float32()))],
    "BULK_SCHEMA": lambda pa: [("user_id", pa.string()), ("rank", pa.int64()), ("item_id", pa.string()), ("score", pa.float64())],
}


def pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ImportError("pyarrow is needed for tables: pip install 'anabranch[arrow]'") from None
    return pyarrow


def schema(name: str) -> pa.Schema:
    if name not in _MADE:
        pa = pyarrow()
        _MADE[name] = pa.schema(_SCHEMAS[name](pa))
    return _MADE[name]


_MADE: dict[str, Any] = {}

Binary = tuple[np.ndarray, np.ndarray]


def batches(data: Any) -> Iterator[pa.RecordBatch]:
    """Record batches of anything that speaks Arrow: a batch, a table, a reader."""
    pa = pyarrow()
    if isinstance(data, pa.RecordBatch):
        yield data
    elif hasattr(data, "__arrow_c_array__"):
        yield pa.record_batch(data)
    elif hasattr(data, "__arrow_c_stream__"):
        yield from pa.RecordBatchReader.from_stream(data)
    else:
        raise InputError(f"{type(data).__name__} does not speak Arrow: it has neither __arrow_c_array__ nor __arrow_c_stream__")


def all_batches(data: Iterable[Any]) -> Iterator[pa.RecordBatch]:
    """Record batches of several such things, or of one."""
    if hasattr(data, "__arrow_c_array__") or hasattr(data, "__arrow_c_stream__"):
        yield from batches(data)
    else:
        for part in data:
            yield from batches(part)


def columns(batch: pa.RecordBatch, name: str) -> list[pa.Array]:
    """The columns of a schema by name, of its types, without gaps."""
    pa = pyarrow()
    found = []
    for field in schema(name):
        index = batch.schema.get_field_index(field.name)
        if index < 0:
            raise InputError(f"no column {field.name!r}; the columns are: {', '.join(batch.schema.names)}")
        column = batch.column(index)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise InputError(f"column {field.name!r}: {error}") from None
        if column.null_count:
            raise InputError(f"column {field.name!r} has {column.null_count} nulls; every row needs a value")
        found.append(column)
    return found


def binary_in(column: pa.Array) -> Binary:
    """Offsets and bytes of a binary or string column, where they lie."""
    _, offsets, data = column.buffers()
    if offsets is None or len(column) == 0:
        return np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.uint8)
    first = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    return first, np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)


def numbers_in(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=True) if len(column) else np.zeros(0, dtype=column.type.to_pandas_dtype())


def binary_out(column: Binary, kind: pa.DataType, present: np.ndarray | None = None) -> pa.Array:
    pa = pyarrow()
    offsets, data = column
    validity = None
    if present is not None and not present.all():
        validity = pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(kind, len(offsets) - 1, [validity, pa.py_buffer(offsets), pa.py_buffer(data)])


def numbers_out(values: np.ndarray, kind: pa.DataType, present: np.ndarray | None = None) -> pa.Array:
    pa = pyarrow()
    validity = None
    if present is not None and not present.all():
        validity = pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(values)])


def list_out(offsets: np.ndarray, values: pa.Array) -> pa.Array:
    pa = pyarrow()
    return pa.Array.from_buffers(pa.list_(values.type), len(offsets) - 1, [None, pa.py_buffer(offsets)], children=[values])


def batch_out(name: str, arrays: list[pa.Array]) -> pa.RecordBatch:
    return pyarrow().RecordBatch.from_arrays(arrays, schema=schema(name))


def one_batch(name: str, made: list[pa.RecordBatch]) -> pa.RecordBatch:
    """What was made of each batch of a stream, as one."""
    if not made:
        return pyarrow().RecordBatch.from_pylist([], schema=schema(name))
    return joined(made)


def joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Batches of one schema, at least one, as one. (pyarrow has a function for it from 19 on; Glue 5 comes with 17.)"""
    whole = pyarrow().Table.from_batches(parts).combine_chunks().to_batches()
    if len(whole) > 1:
        raise ValueError("rows of more than 2 GiB in one batch: give fewer at once")
    return whole[0] if whole else parts[0]


def records_in(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, Binary, Binary]:
    kind, part, key, row = columns(batch, "RECORD_SCHEMA")
    return numbers_in(kind), numbers_in(part), binary_in(key), binary_in(row)


def records_out(records: tuple[np.ndarray, np.ndarray, Binary, Binary]) -> pa.RecordBatch:
    pa = pyarrow()
    kind, part, key, row = records
    arrays = [
        numbers_out(kind, pa.int8()),
        numbers_out(part, pa.int64()),
        binary_out(key, pa.binary()),
        binary_out(row, pa.binary()),
    ]
    return batch_out("RECORD_SCHEMA", arrays)


def events_out(events: Any) -> pa.RecordBatch:
    pa = pyarrow()
    ((users, has_user), (sessions, has_session)), (items, kinds, keys), (values, has_value), times = events
    arrays = [
        binary_out(users, pa.string(), has_user),
        binary_out(sessions, pa.string(), has_session),
        binary_out(items, pa.string()),
        binary_out(kinds, pa.string()),
        numbers_out(values, pa.float32(), has_value),
        numbers_out(times, pa.timestamp("ms", tz="UTC")),
        binary_out(keys, pa.string()),
    ]
    return batch_out("EVENTS_SCHEMA", arrays)


def __getattr__(name: str) -> Any:
    if name in _SCHEMAS:
        return schema(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Training rows under Spark: histories to rows, rows to numbered blocks of users, those to blocks of items.

A *block* is one record: a run of consecutive rows as the arrays of a compressed sparse matrix, in their bytes. Spark moves few large records
and numpy sees whole arrays. Users are numbered by the rank of their keys' bytes and items by the rank of their ids' bytes,
as the local trainer numbers them, so neither numbers nor the order of any sum depends on Spark's partitions.

Bounds: an item block's entries are held by one task; the item index, the demand and the item factors by the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.functions import col

from anabranch import GRAMIAN_BLOCK_ROWS, GRAMIAN_GROUP_BLOCKS, Dataset, ItemIndex, RowMaker, Settings, route_histories
from anabranch.spark.etl import Batches, each_of_lake, in_tasks, numbers, partition_number, records_per_batch

ROUTED_DDL = "key binary, source binary, history binary"
ROW_DDL = "kind tinyint, key binary, items binary, data binary"
NUMBERED_DDL = "spot int, block int, row bigint, key binary, items binary, data binary"
USERS_DDL = "block int, first bigint, key_ends binary, keys binary, indptr binary, items binary, data binary"
PIECES_DDL = "spot int, block int, users_block int, items binary, users binary, data binary"
ITEMS_DDL = "block int, first bigint, indptr binary, users binary, data binary"

A_ROW, ITS_DEMAND = 0, 1
# Rows of a group of the Gramian's sum, and of a block of users at most: 65,536 rows of 100 entries are 50 MB.
GROUP_ROWS = GRAMIAN_BLOCK_ROWS * GRAMIAN_GROUP_BLOCKS
# The driver takes a matrix for each block of the Gramian (1,024 users) as long as all of them are not larger than this, and a matrix for
# each group (65,536 users) beyond: blocks of users are whole groups then. 64 dimensions reach it at 16 million users.
GRAMIAN_BYTES = 512 << 20
# Entries of a block of items, on average: 8 bytes each, some copies while it is made.
ITEM_BLOCK_ENTRIES = 8_000_000
# What a task may hold of the normal equations of a block of items while it takes in the users' factors block by block.
ITEM_STATE_BYTES = 256 << 20


def large_records(spark: SparkSession) -> AbstractContextManager[None]:
    """Jobs that are planned inside hand over one record at a time: a block may have tens of megabytes."""
    return records_per_batch(spark, 1)


def check_blocks(what: str, found: Sequence[int], expected: Collection[int]) -> None:
    """Every block is there once; else a result would be made of what is left."""
    missing, there = sorted(set(expected) - set(found)), sorted(found)
    if missing or len(there) != len(expected):
        twice = sorted({one for one, next_one in zip(there, there[1:]) if one == next_one} | (set(there) - set(expected)))
        raise RuntimeError(f"{what}: of {len(expected)} blocks {missing[:10]} are missing and {twice[:10]} too many; please report this")


def batch_of(ddl: str, columns: Iterable[Iterable[object]]) -> pa.RecordBatch:
    """Rows for mapInArrow from columns, under a schema in Spark's words."""
    types = {"tinyint": pa.int8(), "int": pa.int32(), "bigint": pa.int64(), "binary": pa.binary(), "float": pa.float32(),
             "double": pa.float64(), "string": pa.string()}
    fields = [part.split() for part in ddl.split(", ")]
    arrays = [pa.array(list(column), types[kind]) for (_, kind), column in zip(fields, columns)]
    return pa.RecordBatch.from_arrays(arrays, names=[name for name, _ in fields])


def cells(batch: pa.RecordBatch) -> Iterator[dict[str, object]]:
    """The rows of a batch of few large rows, bytes as views of the batch."""
    names = batch.schema.names
    for row in range(batch.num_rows):
        values = (batch.column(place)[row] for place in range(len(names)))
        yield {
            name: memoryview(value.as_buffer()) if pa.types.is_binary(value.type) else value.as_py()
            for name, value in zip(names, values)
        }


def as_cells(lists: pa.ListArray, width: int) -> pa.Array:
    """A list column as binary cells that hold the same numbers."""
    offsets = np.asarray(lists.offsets, dtype=np.int64)
    values = lists.values
    start = values.offset + int(offsets[0]) if len(offsets) else 0
    data = values.buffers()[1]
    if data is None:
        return pa.array([b""] * len(lists), pa.binary())
    ends = ((offsets - offsets[0]) * width).astype(np.int32)
    return pa.BinaryArray.from_buffers(pa.binary(), len(lists), [None, pa.py_buffer(ends), data.slice(start * width)])


def gathered(frame: DataFrame) -> Iterator[Row]:
    """The rows of a frame, computed by all tasks at once and brought to the driver a partition after the other, so that it holds those of one."""
    kept = frame.persist(StorageLevel.DISK_ONLY)
    try:
        kept.count()
        yield from kept.toLocalIterator()
    finally:
        kept.unpersist()


# ------------------------------------------------------------------------------------------------------- histories to rows


def items_of(spark: SparkSession, dataset: Dataset) -> ItemIndex:
    """Every item that occurs in a clean interaction."""
    files = dataset.files("interactions")

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for number in numbers(batches):
            ids = dataset.item_ids(files[number])
            yield pa.RecordBatch.from_arrays([ids.cast(pa.string())], names=["id"])

    ids = each_of_lake(spark, len(files)).mapInArrow(in_tasks(run), "id string").distinct()
    return ItemIndex([row.id for row in ids.collect()])


def routed(spark: SparkSession, dataset: Dataset, settings: Settings, partitions: int) -> DataFrame:
    """All histories, those of one person together: a session that is known to be a user's lies at that user's key."""
    files = dataset.files("histories")

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for number in numbers(batches):
            for histories in dataset.histories(files[number]):
                yield route_histories(histories, settings)

    histories = each_of_lake(spark, len(files)).mapInArrow(in_tasks(run), ROUTED_DDL)
    return histories.repartition(partitions, "key").sortWithinPartitions("key", "source")


def make_rows(index: ItemIndex, settings: Settings, end_ms: int, bots: list[str]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Routed histories to rows; at the end what the partition adds to the demand, under the time of its newest entry and the digest of
    its rows."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        maker = RowMaker(index, settings, as_of_ms=end_ms, bots=bots)
        for rows in maker.rows(batches):
            kinds = pa.array(np.full(rows.num_rows, A_ROW, np.int8))
            yield pa.RecordBatch.from_arrays(
                [kinds, rows.column(0), as_cells(rows.column(1), 4), as_cells(rows.column(2), 4)],
                names=["kind", "key", "items", "data"],
            )
        demand = maker.demand
        wanted = np.flatnonzero(demand.any(axis=1)).astype(np.int32)
        newest = np.int64(-(2**63) if maker.newest_ms is None else maker.newest_ms)
        key = newest.tobytes() + maker.digest
        told = [[ITS_DEMAND], [key], [wanted.tobytes()], [np.ascontiguousarray(demand[wanted]).tobytes()]]
        yield batch_of(ROW_DDL, told)

    return in_tasks(run)


@dataclass
class Rows:
    """Rows of all people with a weighted item, and what they wanted. `digest` names the rows, in whatever partitions they were made."""

    frame: DataFrame
    source: DataFrame
    index: ItemIndex
    demand: npt.NDArray[np.uint64]
    newest_ms: int
    digest: bytes

    def unpersist(self) -> None:
        """Lets go of what was kept to make blocks from."""
        self.frame.unpersist()
        self.source.unpersist()


def rows_of(spark: SparkSession, dataset: Dataset, settings: Settings, partitions: int) -> Rows:
    """The dataset's histories as training rows, in order of key within ranges of keys."""
    index = items_of(spark, dataset)
    made = routed(spark, dataset, settings, partitions).mapInArrow(
        make_rows(index, settings, dataset.end_ms, dataset.bots()), ROW_DDL
    ).persist(StorageLevel.DISK_ONLY)
    demand = np.zeros((len(index), 2), np.uint64)
    newest_ms, digest = -(2**63), 0
    for row in gathered(made.where(col("kind") == ITS_DEMAND)):
        newest_ms = max(newest_ms, int(np.frombuffer(row.key[:8], np.int64)[0]))
        digest = (digest + int.from_bytes(row.key[8:], "little")) % (1 << 128)
        demand[np.frombuffer(row["items"], np.int32)] += np.frombuffer(row.data, np.uint64).reshape(-1, 2)
    frame = made.where(col("kind") == A_ROW).repartitionByRange(partitions, "key").sortWithinPartitions("key")
    return Rows(frame.persist(StorageLevel.DISK_ONLY), made, index, demand, newest_ms, digest.to_bytes(16, "little"))


# ------------------------------------------------------------------------------------------------------------ what is kept


def item_counts(frame: DataFrame, items: int) -> tuple[npt.NDArray[np.int64], int, int]:
    """People and entries of each item's column: (people of each item, rows, entries)."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        counts, rows = np.zeros(items, np.int64), 0
        for batch in batches:
            rows += batch.num_rows
            counts += np.bincount(flat(batch.column("items"), np.int32), minlength=items)
        used = np.flatnonzero(counts).astype(np.int32)
        yield batch_of("rows bigint, items binary, counts binary", [[rows], [used.tobytes()], [counts[used].tobytes()]])

    total, rows = np.zeros(items, np.int64), 0
    for row in gathered(frame.mapInArrow(in_tasks(run), "rows bigint, items binary, counts binary")):
        rows += row.rows
        total[np.frombuffer(row["items"], np.int32)] += np.frombuffer(row.counts, np.int64)
    return total, rows, int(total.sum())


def flat(column: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """All numbers of a column of binary cells, one cell after the other."""
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    if not len(column) or ends[0] == ends[-1]:
        return np.zeros(0, dtype)
    return np.frombuffer(column.buffers()[2], np.uint8)[ends[0] : ends[-1]].view(dtype)


def lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """How many numbers of four bytes each cell holds."""
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    return np.diff(ends).astype(np.int64) // 4


def without(frame: DataFrame, is_kept: npt.NDArray[np.bool_], entries_min: int) -> DataFrame:
    """The rows without the items that are not kept, and without rows that are then too short."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            kept = is_kept[flat(batch.column("items"), np.int32)]
            row_of = np.repeat(np.arange(batch.num_rows), lengths(batch.column("items")))
            left = np.bincount(row_of[kept], minlength=batch.num_rows)
            stays = kept & (left >= entries_min)[row_of]
            rows = np.flatnonzero(left >= entries_min)
            ends = np.concatenate([[0], np.cumsum(left[rows])]) * 4
            cut = [
                pa.BinaryArray.from_buffers(
                    pa.binary(), len(rows), [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(flat(column, np.int32)[stays])]
                )
                for column in (batch.column("items"), batch.column("data"))
            ]
            places = pa.array(rows)
            yield pa.RecordBatch.from_arrays(
                [batch.column("kind").take(places), batch.column("key").take(places), *cut], names=batch.schema.names
            )

    return frame.mapInArrow(in_tasks(run), ROW_DDL).persist(StorageLevel.DISK_ONLY)


def k_core(rows: Rows, users_min: int, items_min: int) -> Rows:
    """Drops users with fewer than `users_min` items and items with fewer than `items_min` users until neither is left."""
    if users_min <= 1 and items_min <= 1:
        return rows
    counts, _, before = item_counts(rows.frame, len(rows.index))
    while True:
        frame = without(rows.frame, counts >= items_min, max(users_min, 1))
        counts, _, entries = item_counts(frame, len(rows.index))
        rows.frame.unpersist()
        rows.frame = frame
        if entries == before:
            return rows
        before = entries


# ------------------------------------------------------------------------------------------------------------------ blocks


@dataclass
class Blocks:
    """The matrix, cut both ways."""

    users: DataFrame
    items: DataFrame
    index: ItemIndex
    user_count: int
    entry_count: int
    user_rows: int
    item_rows: int
    is_used: npt.NDArray[np.bool_]  # of the items that the rows knew

    @property
    def is_grouped(self) -> bool:
        """Whether a block of users is a whole group of the Gramian's sum."""
        return self.user_rows % GROUP_ROWS == 0

    @property
    def user_blocks(self) -> int:
        return -(-self.user_count // self.user_rows)

    @property
    def item_blocks(self) -> int:
        return -(-len(self.index) // self.item_rows)

    def unpersist(self) -> None:
        self.users.unpersist()
        self.items.unpersist()


def user_block_rows(users: int, blocks: int, dim: int, gramian_bytes: int) -> int:
    """Rows of a block of users so that there are about `blocks` or more: whole blocks of the Gramian, at most one of its groups; one
    group if the matrices of all blocks would be larger than `gramian_bytes`."""
    if -(-users // GRAMIAN_BLOCK_ROWS) * dim * dim * 8 > gramian_bytes:
        return GROUP_ROWS
    wanted = min(-(-users // blocks), GROUP_ROWS)
    return -(-wanted // GRAMIAN_BLOCK_ROWS) * GRAMIAN_BLOCK_ROWS


def item_block_rows(items: int, entries: int, blocks: int, dim: int, state_bytes: int) -> int:
    """Rows of a block of items so that there are `blocks` or more, none has too many entries on average, and `HalfStep` holds at most
    `state_bytes` for one: `dim + 1` vectors of `dim` numbers (rounded up to 16) for each row."""
    wanted = -(-items // max(blocks, entries // ITEM_BLOCK_ENTRIES))
    stride = -(-dim // 16) * 16
    return max(1, min(wanted, state_bytes // ((dim + 1) * stride * 4)))


def spots(spark: SparkSession, partitions: int) -> npt.NDArray[np.int32]:
    """For each partition a number that `repartition(partitions, "spot")` puts there: few blocks, hashed by their own numbers, would meet in
    some partitions and leave others empty."""
    found: dict[int, int] = {}
    begin, count = 0, 16 * partitions
    while len(found) < partitions:
        frame = spark.range(begin, begin + count, 1, 1).selectExpr(
            "CAST(id AS int) AS spot", f"pmod(hash(CAST(id AS int)), {partitions}) AS place"
        )
        for row in frame.collect():
            found.setdefault(row.place, row.spot)
        begin += count
    return np.array([found[place] for place in range(partitions)], np.int32)


def blocks_of(spark: SparkSession, rows: Rows, partitions: int, dim: int, gramian_bytes: int = GRAMIAN_BYTES) -> Blocks:
    """Numbers users and items, and cuts the matrix into blocks of users and blocks of items, for factors of `dim` dimensions. Rows are
    let go."""
    counts, user_count, entry_count = item_counts(rows.frame, len(rows.index))
    used = counts > 0
    if not used.any():
        raise ValueError("the dataset has no interactions to learn from outside bots and k-core; check the ETL's report")
    index = rows.index.retain(used)
    renumbered = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    user_rows = user_block_rows(user_count, 2 * partitions, dim, gramian_bytes)
    item_rows = item_block_rows(len(index), entry_count, 2 * partitions, dim, ITEM_STATE_BYTES)
    places = spots(spark, partitions)

    firsts = first_rows(rows.frame)
    numbered = rows.frame.mapInArrow(number_rows(firsts, renumbered, user_rows, places), NUMBERED_DDL)
    users = numbered.repartition(partitions, "spot").sortWithinPartitions("row").mapInArrow(
        in_tasks(user_blocks), USERS_DDL
    ).persist(StorageLevel.MEMORY_AND_DISK)
    # Made while records are small; from here on they are blocks.
    users.count()
    rows.unpersist()
    with large_records(spark):
        items = item_frame(users, item_blocks(len(index), item_rows), split_by_items(item_rows, places), partitions)
        items.count()
    return Blocks(users, items, index, user_count, entry_count, user_rows, item_rows, used)


def item_frame(
    users: DataFrame, make: Callable[[Batches], Iterator[pa.RecordBatch]], split: Callable[[Batches], Iterator[pa.RecordBatch]], partitions: int
) -> DataFrame:
    """Blocks of items from blocks of users."""
    pieces = users.mapInArrow(split, PIECES_DDL)
    pieces = pieces.repartition(partitions, "spot").sortWithinPartitions("block", "users_block")
    return pieces.mapInArrow(make, ITEMS_DDL).persist(StorageLevel.MEMORY_AND_DISK)


def first_rows(frame: DataFrame) -> dict[int, int]:
    """The number of each partition's first row."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        yield batch_of("place int, rows bigint", [[partition_number()], [sum(batch.num_rows for batch in batches)]])

    counted = sorted((row.place, row.rows) for row in frame.mapInArrow(in_tasks(run), "place int, rows bigint").collect())
    firsts, first = {}, 0
    for place, rows in counted:
        firsts[place] = first
        first += rows
    return firsts


def number_rows(
    firsts: dict[int, int], renumbered: npt.NDArray[np.int32], user_rows: int, places: npt.NDArray[np.int32]
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Gives each row its number and block, and each item its number among those that are used."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        row = firsts[partition_number()]
        for batch in batches:
            column = batch.column("items")
            ends = np.concatenate([[0], np.cumsum(lengths(column))]) * 4
            items = pa.BinaryArray.from_buffers(
                pa.binary(), batch.num_rows,
                [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(renumbered[flat(column, np.int32)])],
            )
            rows = np.arange(row, row + batch.num_rows, dtype=np.int64)
            row += batch.num_rows
            block = (rows // user_rows).astype(np.int32)
            yield pa.RecordBatch.from_arrays(
                [pa.array(places[block % len(places)]), pa.array(block), pa.array(rows), batch.column("key"), items,
                 batch.column("data")],
                names=["spot", "block", "row", "key", "items", "data"],
            )

    return in_tasks(run)


def user_blocks(batches: Batches) -> Iterator[pa.RecordBatch]:
    """Numbered rows in order to blocks."""
    held: list[pa.RecordBatch] = []
    block = None
    for batch in batches:
        numbers_of = np.asarray(batch.column("block"))
        cuts = [0, *(np.flatnonzero(np.diff(numbers_of)) + 1).tolist(), batch.num_rows]
        for begin, end in zip(cuts, cuts[1:]):
            if begin == end:
                continue
            if block is not None and numbers_of[begin] != block:
                yield user_block(block, held)
                held = []
            block = int(numbers_of[begin])
            held.append(batch.slice(begin, end - begin))
    if block is not None:
        yield user_block(block, held)


def user_block(block: int, parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One block of users from its rows."""
    entries = np.concatenate([lengths(part.column("items")) for part in parts])
    keys = [np.frombuffer(part.column("key").buffers()[1], np.int32) for part in parts]
    sizes = [np.diff(ends[part.column("key").offset :][: part.num_rows + 1]) for ends, part in zip(keys, parts)]
    columns = [
        [block],
        [parts[0].column("row")[0].as_py()],
        [np.cumsum(np.concatenate(sizes), dtype=np.int64).tobytes()],
        [b"".join(flat(part.column("key"), np.uint8).tobytes() for part in parts)],
        [np.concatenate([[0], np.cumsum(entries)]).astype(np.int64).tobytes()],
        [b"".join(flat(part.column("items"), np.int32).tobytes() for part in parts)],
        [b"".join(flat(part.column("data"), np.float32).tobytes() for part in parts)],
    ]
    return batch_of(USERS_DDL, columns)


@dataclass
class Sparse:
    """Rows of a block: `indices[indptr[r]:indptr[r + 1]]` ascending, with their `data`."""

    block: int
    first: int
    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    data: npt.NDArray[np.float32]

    @property
    def rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def row_of(self) -> npt.NDArray[np.int64]:
        """The row of each entry."""
        return np.repeat(np.arange(self.rows), np.diff(self.indptr))


def sparse(cell: dict[str, object], side: str) -> Sparse:
    """A block's arrays from its record; `side` names its indices: `items` in a user block, `users` in an item block."""
    indptr = np.frombuffer(cell["indptr"], np.int64)
    return Sparse(
        cell["block"], cell["first"], indptr, np.frombuffer(cell[side], np.int32), np.frombuffer(cell["data"], np.float32)
    )


def split_by_items(item_rows: int, places: npt.NDArray[np.int32]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """A user block's entries, by block of items."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for cell in cells(batch):
                rows = sparse(cell, "items")
                users = (rows.first + rows.row_of).astype(np.int32)
                # By item, and users ascending within an item, since the sort is stable.
                order = np.argsort(rows.indices, kind="stable")
                items, users, data = rows.indices[order], users[order], rows.data[order]
                blocks = items // item_rows
                for block in np.unique(blocks):
                    begin, end = np.searchsorted(blocks, [block, block + 1])
                    piece = [items[begin:end], users[begin:end], data[begin:end]]
                    spot = int(places[block % len(places)])
                    yield batch_of(PIECES_DDL, [[spot], [int(block)], [rows.block], *([part.tobytes()] for part in piece)])

    return in_tasks(run)


def item_blocks(item_count: int, item_rows: int) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Pieces in order of (block of items, block of users) to blocks of items, users ascending in each row."""

    def block_of(block: int, pieces: list[dict[str, object]]) -> pa.RecordBatch:
        items = np.concatenate([np.frombuffer(piece["items"], np.int32) for piece in pieces])
        order = np.argsort(items, kind="stable")
        first = block * item_rows
        counts = np.bincount(items - first, minlength=min(item_rows, item_count - first))
        users = np.concatenate([np.frombuffer(piece["users"], np.int32) for piece in pieces])[order]
        data = np.concatenate([np.frombuffer(piece["data"], np.float32) for piece in pieces])[order]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return batch_of(ITEMS_DDL, [[block], [first], [indptr.tobytes()], [users.tobytes()], [data.tobytes()]])

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        held: list[dict[str, object]] = []
        for batch in batches:
            for piece in cells(batch):
                if held and piece["block"] != held[0]["block"]:
                    yield block_of(held[0]["block"], held)
                    held = []
                held.append(piece)
        if held:
            yield block_of(held[0]["block"], held)

    return in_tasks(run)

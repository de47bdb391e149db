"""Item neighbours under Spark: an item's list is made where its users are known, from the rows of those users.

The rows of all users, capped, lie in the lake block by block; an executor fetches them once into files that all its tasks map, and a list touches
only the rows of its item's users. Sums run over users ascending, as on one machine, so the lists have the same bits.

Bounds: 12 bytes an entry on each executor's disk; the lists (8 bytes a neighbour) go to the driver, which writes the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import anabranch
from anabranch import Lake
from anabranch.spark.etl import Batches, in_tasks
from anabranch.spark.ials import Trainer
from anabranch.spark.rows import (
    USERS_DDL, Blocks, batch_of, cells, check_blocks, item_blocks, item_frame, large_records, sparse, split_by_items, spots,
)
from anabranch.spark.sharing import fetched, kept_folder

Settings = dict[str, Any]
Lists = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]
# What a block's object holds, one array after the other: entries of each row, items, weights, scales of the rows.
PARTS = {"counts": np.uint32, "items": np.uint32, "data": np.float32, "scales": np.float32}
LEFT_DDL = "block int, rows bigint, entries bigint, item_blocks binary"
SQUARES_DDL = "block int, squares binary"
LISTS_DDL = "block int, counts binary, items binary, scores binary"


@dataclass
class CappedRows:
    """The capped rows of all users in the lake: one object for each block, (rows, entries) of each."""

    lake: Lake
    folder: str
    key: str
    sizes: Sequence[tuple[int, int]]

    def mapped(self) -> dict[str, npt.NDArray[Any]]:
        """offsets (int64), items, data and scales of all users, mapped from the executor's files."""
        folder = fetched(kept_folder(self.key) / "rows", self._fetch)
        return {name: np.memmap(folder / name, dtype, "r") for name, dtype in (
            ("offsets", np.int64), ("items", np.uint32), ("data", np.float32), ("scales", np.float32))}

    def _fetch(self, folder: Path) -> None:
        folder.mkdir()
        files = {name: (folder / name).open("wb") for name in ("offsets", "items", "data", "scales")}
        end = np.int64(0)
        files["offsets"].write(end.tobytes())
        for block, (rows, entries) in enumerate(self.sizes):
            data = self.lake.get(row_path(self.folder, block))
            at = 0
            for name, length in (("counts", rows), ("items", entries), ("data", entries), ("scales", rows)):
                part = data[at : at + 4 * length]
                at += 4 * length
                if name == "counts":
                    ends = end + np.cumsum(np.frombuffer(part, np.uint32), dtype=np.int64)
                    files["offsets"].write(ends.tobytes())
                    end = ends[-1] if len(ends) else end
                else:
                    files[name].write(part)
        for file in files.values():
            file.close()


def row_path(folder: str, block: int) -> str:
    """Where a block of capped rows lies."""
    return f"{folder}/{block:06d}.rows"


def leave_rows(
    lake: Lake, folder: str, items_all: int, item_rows: int, settings: Settings
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Writes the capped rows of users to the lake."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for cell in cells(batch):
                rows = sparse(cell, "items")
                indptr, items, data, scales = anabranch.neighbour_rows(rows.indptr, rows.indices, rows.data, items_all, settings)
                parts = {"counts": np.diff(indptr), "items": items, "data": data, "scales": scales}
                packed = b"".join(np.asarray(parts[name]).astype(dtype).tobytes() for name, dtype in PARTS.items())
                lake.put(row_path(folder, rows.block), packed)
                touched = np.unique(np.asarray(items) // item_rows).astype(np.int32)
                yield batch_of(LEFT_DDL, [[rows.block], [rows.rows], [len(items)], [touched.tobytes()]])

    return in_tasks(run)


def capped_blocks(items_all: int, settings: Settings) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Blocks of users with their rows capped."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for cell in cells(batch):
                rows = sparse(cell, "items")
                indptr, items, data, _ = anabranch.neighbour_rows(rows.indptr, rows.indices, rows.data, items_all, settings)
                told = [[rows.block], [rows.first], [b""], [b""], [np.asarray(indptr, np.int64).tobytes()],
                        [np.asarray(items).astype(np.int32).tobytes()], [np.asarray(data, np.float32).tobytes()]]
                yield batch_of(USERS_DDL, told)

    return in_tasks(run)


def make_squares(rows: CappedRows) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """The norm of each item."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        scales = rows.mapped()["scales"]
        for batch in batches:
            for cell in cells(batch):
                users = sparse(cell, "users")
                squares = anabranch.neighbour_squares(users.indptr, users.indices, users.data, scales)
                yield batch_of(SQUARES_DDL, [[users.block], [squares.tobytes()]])

    return in_tasks(run)


def make_lists(rows: CappedRows, squares: Any, settings: Settings) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """The lists of each item."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        mapped = rows.mapped()
        all_rows = (mapped["offsets"], mapped["items"], mapped["data"])
        for batch in batches:
            for cell in cells(batch):
                users = sparse(cell, "users")
                offsets, items, scores = anabranch.neighbours_of(
                    users.first, users.indptr, users.indices, users.data, rows=all_rows, scales=mapped["scales"], squares=squares.value,
                    settings=settings,
                )
                told = [np.diff(offsets).astype(np.int64), items, scores]
                yield batch_of(LISTS_DDL, [[users.block], *([part.tobytes()] for part in told)])

    return in_tasks(run)


def neighbours_of(trainer: Trainer, settings: Settings, partitions: int) -> Lists:
    """The neighbours of every item: (offsets, indices, similarities), best first."""
    spark, lake, blocks = trainer.spark, trainer.lake, trainer.blocks
    folder = f"{trainer.work}/rows"
    with large_records(spark):
        task = leave_rows(lake, folder, len(blocks.index), blocks.item_rows, settings)
        left = sorted(blocks.users.mapInArrow(task, LEFT_DDL).collect(), key=lambda row: row.block)
        check_blocks("capping", [row.block for row in left], range(blocks.user_blocks))
        # Blocks of items that kept an entry; the others lost all of theirs to the cap.
        touched = {int(block) for row in left for block in np.frombuffer(row.item_blocks, np.int32)}
        rows = CappedRows(lake, folder, trainer.key, [(row.rows, row.entries) for row in left])
        items = blocks.items
        is_capped = sum(row.entries for row in left) < blocks.entry_count
        if is_capped:
            # Rows were cut, so the items' columns are cut too.
            users = blocks.users.mapInArrow(capped_blocks(len(blocks.index), settings), USERS_DDL)
            make = item_blocks(len(blocks.index), blocks.item_rows)
            items = item_frame(users, make, split_by_items(blocks.item_rows, spots(spark, partitions)), partitions)
        by_block = items.mapInArrow(make_squares(rows), SQUARES_DDL).collect()
        check_blocks("the items' norms", [row.block for row in by_block], touched)
        squares = np.zeros(len(blocks.index), np.float64)
        for row in by_block:
            found = np.frombuffer(row.squares, np.float64)
            squares[row.block * blocks.item_rows :][: len(found)] = found
        shared = spark.sparkContext.broadcast(squares)
        lists = items.mapInArrow(make_lists(rows, shared, settings), LISTS_DDL).collect()
        shared.destroy()
        if is_capped:
            items.unpersist()
    return joined(lists, blocks, touched)


def joined(lists: Sequence[Any], blocks: Blocks, touched: set[int]) -> Lists:
    """The blocks' lists as one; only a block that is not among `touched`, which lost all its entries to the cap, has none."""
    check_blocks("the items' neighbours", [row.block for row in lists], touched)
    by_block = {row.block: row for row in lists}
    counts, items, scores = [], [], []
    for block in range(blocks.item_blocks):
        rows = min(blocks.item_rows, len(blocks.index) - block * blocks.item_rows)
        row = by_block.get(block)
        counts.append(np.frombuffer(row.counts, np.int64) if row else np.zeros(rows, np.int64))
        items.append(np.frombuffer(row["items"], np.int32) if row else np.zeros(0, np.int32))
        scores.append(np.frombuffer(row.scores, np.float32) if row else np.zeros(0, np.float32))
        if len(counts[-1]) != rows or counts[-1].sum() != len(items[-1]) or len(items[-1]) != len(scores[-1]):
            raise RuntimeError(f"block {block} of the items' neighbours is cut short: please report this")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return offsets, np.concatenate(items), np.concatenate(scores)

"""Distributed iALS: the local trainer's half-steps as tasks, its iterations and checkpoints, and what a snapshot is made of.

A half-step is one `mapInArrow` over a side's blocks into the wheel's kernel. A row's factors depend on nothing but its entries in order, the
factors that they name and the Gramian, and the Gramian is a sum over fixed blocks in order; so the factors have the local
trainer's bits whatever Spark's partitions (`docs/architecture.md`, "The same bits everywhere").

After each iteration the item factors lie in the lake under a key of (dataset, settings, version): a job that was killed goes on after its last
iteration, with more or fewer executors if need be. User factors are not kept, the next half-step makes them again.

Bounds: item factors and item index are held by the driver.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

import anabranch
from anabranch import Dataset, HalfStep, Lake, Settings, gramian_blocks, gramian_groups, gramian_sum, half_step
from anabranch.spark.etl import Batches, in_tasks
from anabranch.spark.rows import GROUP_ROWS, Blocks, Sparse, batch_of, cells, large_records, sparse
from anabranch.spark.sharing import F32, InLake, OneArray, Output, Shared, ToDriver, ToLake, one_array

FORMAT = 1
FOLDER = "training"
SOLVED_DDL = "block int, factors binary, sums binary"

F64 = npt.NDArray[np.float64]


# -------------------------------------------------------------------------------------------------------------- half-steps


def solve_users(
    items: Shared, gramian: F64, ials: dict[str, Any], output: Output, is_grouped: bool
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Blocks of users against the item factors; `sums` is the block's part of the user factors' Gramian."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        factors = items.array()
        for batch in batches:
            for cell in cells(batch):
                rows = sparse(cell, "items")
                solved = half_step(rows.indptr, rows.indices, rows.data, factors, gramian, ials, count=items.count)
                sums = gramian_blocks(solved)
                sums = gramian_groups(sums) if is_grouped else sums
                yield batch_of(SOLVED_DDL, [[rows.block], [output.leave(rows.block, solved)], [sums.tobytes()]])

    return in_tasks(run)


def solve_items(
    users: OneArray | InLake, gramian: F64, ials: dict[str, Any], output: Output
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Blocks of items against the user factors."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for cell in cells(batch):
                rows = sparse(cell, "users")
                if isinstance(users, InLake):
                    solved = solve_by_blocks(rows, users, gramian, ials)
                else:
                    solved = half_step(rows.indptr, rows.indices, rows.data, users.array(), gramian, ials, count=users.count)
                yield batch_of(SOLVED_DDL, [[rows.block], [output.leave(rows.block, solved)], [b""]])

    return in_tasks(run)


def solve_by_blocks(rows: Sparse, users: InLake, gramian: F64, ials: dict[str, Any]) -> F32:
    """The join by blocks: each row takes its users' factors a block of users after the other, in order, and never holds more than one."""
    step = HalfStep(np.diff(rows.indptr), gramian, ials, count=users.count)
    block_of = rows.indices // users.block_rows
    # Stable: within a block of users the entries stay in order of row and user.
    order = np.argsort(block_of, kind="stable")
    block_of, row_of = block_of[order], rows.row_of
    for block in np.unique(block_of):
        begin, end = np.searchsorted(block_of, [block, block + 1])
        entries = order[begin:end]
        counts = np.bincount(row_of[entries], minlength=rows.rows)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        indices = (rows.indices[entries] - block * users.block_rows).astype(np.int32)
        step.add(indptr, indices, rows.data[entries], users.block(int(block)))
    return step.finish()


# -------------------------------------------------------------------------------------------------------------- iterations


@dataclass
class Progress:
    """How far training is."""

    iteration: int
    iterations: int
    seconds: float


@dataclass
class Factors:
    """What the iterations leave."""

    items: F32
    gramian: F64
    resumed_from: int


@dataclass
class Trainer:
    """The iterations over `blocks`. `work` is the folder of the lake for checkpoints and for what tasks share."""

    spark: SparkSession
    lake: Lake
    blocks: Blocks
    ials: dict[str, Any]
    work: str
    share_bytes: int

    @property
    def dim(self) -> int:
        return int(self.ials["dim"])

    def run(self, progress: Callable[[Progress], None] = lambda _: None) -> Factors:
        """All iterations that no checkpoint holds."""
        checkpoints = Checkpoints(self.lake, self.work, len(self.blocks.index), self.dim)
        resumed_from, items = checkpoints.newest()
        if items is None:
            items = anabranch.initial_factors(self.blocks.index.ids, self.ials)
        total = int(self.ials["iterations"])
        with large_records(self.spark):
            for iteration in range(resumed_from + 1, total + 1):
                begin = time.monotonic()
                items = self.iterate(items, iteration)
                checkpoints.keep(iteration, items)
                progress(Progress(iteration, total, time.monotonic() - begin))
        return Factors(items, anabranch.gramian(items), resumed_from)

    def iterate(self, items: F32, iteration: int) -> F32:
        """One round: the users, then the items."""
        blocks = self.blocks
        is_grouped = blocks.user_rows % GROUP_ROWS == 0
        shared_items = self.share_items(items, f"items-{iteration:04d}")
        users_output = self.output(blocks.user_count, f"users-{iteration:04d}")
        task = solve_users(shared_items, anabranch.gramian(items), self.ials, users_output, is_grouped)
        solved = self.solved(blocks.users, task)
        sums = np.concatenate([np.frombuffer(sums, np.float64) for _, sums in solved]).reshape(-1, self.dim, self.dim)
        gramian = gramian_sum(sums if is_grouped else gramian_groups(sums))
        users: OneArray | InLake
        if isinstance(users_output, ToLake):
            paths = [users_output.path(block) for block in range(blocks.user_blocks)]
            step = users_output.folder.rsplit("/", 1)[-1]
            users = InLake(self.lake, step, paths, blocks.user_rows, blocks.user_count, self.dim)
        else:
            users = one_array(self.spark.sparkContext, self.joined(solved))
        items_output = self.output(len(items), f"next-items-{iteration:04d}")
        solved = self.solved(blocks.items, solve_items(users, gramian, self.ials, items_output))
        if isinstance(items_output, ToLake):
            parts = [self.lake.get(items_output.path(block)) for block in range(blocks.item_blocks)]
            items = np.concatenate([np.frombuffer(part, np.float32) for part in parts]).reshape(-1, self.dim)
        else:
            items = self.joined(solved)
        for shared in (shared_items, users):
            self.let_go(shared)
        if isinstance(items_output, ToLake):
            self.remove(items_output.folder)
        return items

    def share_items(self, items: F32, step: str) -> OneArray | InLake:
        """The item factors, which the driver holds, for tasks."""
        if items.nbytes <= self.share_bytes:
            return one_array(self.spark.sparkContext, items)
        output = ToLake(self.lake, f"{self.work}/{step}")
        rows = self.blocks.item_rows
        for block in range(self.blocks.item_blocks):
            output.leave(block, items[block * rows : (block + 1) * rows])
        paths = [output.path(block) for block in range(self.blocks.item_blocks)]
        return InLake(self.lake, step, paths, rows, len(items), self.dim)

    def output(self, rows: int, step: str) -> ToDriver | ToLake:
        """Where a half-step's `rows` go."""
        if rows * self.dim * 4 <= self.share_bytes:
            return ToDriver()
        return ToLake(self.lake, f"{self.work}/{step}")

    def solved(self, frame: DataFrame, task: Callable[[Batches], Iterator[pa.RecordBatch]]) -> list[tuple[bytes, bytes]]:
        """A half-step's (factors, sums) in order of blocks."""
        rows = sorted(frame.mapInArrow(task, SOLVED_DDL).collect(), key=lambda row: row.block)
        if [row.block for row in rows] != list(range(len(rows))):
            raise RuntimeError(f"a half-step gave blocks {[row.block for row in rows]}: one is missing or there twice")
        return [(row.factors, row.sums) for row in rows]

    def joined(self, solved: list[tuple[bytes, bytes]]) -> F32:
        """The blocks as one array."""
        return np.frombuffer(b"".join(factors for factors, _ in solved), np.float32).reshape(-1, self.dim)

    def let_go(self, shared: OneArray | InLake) -> None:
        """What was shared is not needed any more."""
        if isinstance(shared, OneArray):
            shared.broadcast.destroy()
        else:
            self.remove(shared.paths[0].rsplit("/", 1)[0])

    def remove(self, folder: str) -> None:
        """Removes a folder of the lake."""
        for path, _, _ in self.lake.list(folder):
            self.lake.delete(path)


@dataclass
class Checkpoints:
    """The item factors after each iteration: `<work>/checkpoints/<iteration>-<sha256>.f32`. An object is there whole or not at all, and its name
    says what it must hold, so one that is there and fits is a checkpoint; only the newest stays."""

    lake: Lake
    work: str
    rows: int
    dim: int

    @property
    def folder(self) -> str:
        return f"{self.work}/checkpoints"

    def newest(self) -> tuple[int, F32 | None]:
        """The last iteration that is kept and its item factors; (0, None) if there is none."""
        for path, size, _ in reversed(self.lake.list(self.folder)):
            iteration, _, digest = path.rsplit("/", 1)[-1].removesuffix(".f32").partition("-")
            if size != self.rows * self.dim * 4 or not iteration.isdigit():
                continue
            data = self.lake.get(path)
            if hashlib.sha256(data).hexdigest() == digest:
                return int(iteration), np.frombuffer(data, np.float32).reshape(self.rows, self.dim)
        return 0, None

    def keep(self, iteration: int, items: F32) -> None:
        """Writes the checkpoint, then removes those before."""
        data = items.tobytes()
        path = f"{self.folder}/{iteration:06d}-{hashlib.sha256(data).hexdigest()}.f32"
        self.lake.put(path, data)
        for older, _, _ in self.lake.list(self.folder):
            if older != path:
                self.lake.delete(older)


def work_folder(lake: Lake, dataset: Dataset, settings: Settings) -> str:
    """Where a training run of this dataset under these settings keeps its checkpoints: whoever runs it again finds them."""
    told = {
        "format": FORMAT,
        "version": anabranch.__version__,
        "manifest": hashlib.sha256(lake.get(f"manifests/{dataset.number:010d}.json")).hexdigest(),
        "settings": settings.to_dict(),
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
    return f"{FOLDER}/{digest[:16]}"


# ------------------------------------------------------------------------------------------------------ the snapshot's parts


def popularity_of(blocks: Blocks) -> F32:
    """The summed weight of each item."""
    ddl = "block int, sums binary"

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for cell in cells(batch):
                rows = sparse(cell, "users")
                yield batch_of(ddl, [[rows.block], [anabranch.popularity(rows.indptr, rows.data).tobytes()]])

    found = sorted(blocks.items.mapInArrow(in_tasks(run), ddl).collect(), key=lambda row: row.block)
    return np.frombuffer(b"".join(row.sums for row in found), np.float32)


def matrix_of(blocks: Blocks) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """All rows as (indptr, items, data), on the driver."""
    indptr = np.zeros(blocks.user_count + 1, np.int64)
    items = np.empty(blocks.entry_count, np.int32)
    data = np.empty(blocks.entry_count, np.float32)
    entries = {row.block: row.entries for row in blocks.users.selectExpr("block", "length(items) div 4 AS entries").collect()}
    begins, begin = {}, 0
    for block in sorted(entries):
        begins[block] = begin
        begin += entries[block]
    for row in blocks.users.select("block", "first", "indptr", "items", "data").toLocalIterator():
        begin, ends = begins[row.block], np.frombuffer(row.indptr, np.int64)
        indptr[row.first + 1 : row.first + len(ends)] = begin + ends[1:]
        items[begin : begin + ends[-1]] = np.frombuffer(row["items"], np.int32)
        data[begin : begin + ends[-1]] = np.frombuffer(row.data, np.float32)
    return indptr, items, data

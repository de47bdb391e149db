"""Distributed iALS: the local trainer's half-steps as tasks, its iterations and checkpoints, and what a snapshot is made of.

A half-step is one `mapInArrow` over a side's blocks into the wheel's kernel. A row's factors depend on nothing but its entries in order, the
factors that they name and the Gramian, and the Gramian is a sum over fixed blocks in order; so the factors have the local
trainer's bits whatever Spark's partitions (`docs/architecture.md`, "The same bits everywhere").

After each iteration the item factors lie in the lake under a key of (training rows, settings, version): a job that was killed goes on after its last
iteration, with more or fewer executors if need be. User factors are not kept, the next half-step makes them again.

Bounds: item factors and item index are held by the driver.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, Row, SparkSession

import anabranch
from anabranch import (
    GRAMIAN_BLOCK_ROWS, GRAMIAN_GROUP_BLOCKS, HalfStep, Lake, Settings, gramian_blocks, gramian_groups, gramian_sum, half_step,
)
from anabranch.spark.etl import Batches, in_tasks
from anabranch.spark.rows import Blocks, Rows, Sparse, batch_of, cells, check_blocks, large_records, sparse
from anabranch.spark.sharing import (
    F32, InLake, OneArray, Output, Shared, ToDriver, ToLake, key_of, let_go, one_array, tasks_per_executor,
)

FORMAT = 1
FOLDER = "training"
# A folder of another run in which nothing was written for so long is nobody's.
ORPHAN_AGE_MS = 86_400_000
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
    """The iterations over `blocks`. `work` is the folder of the lake for checkpoints and for what tasks share; `share_bytes` is what
    the workers of an executor may hold of a side that is broadcast, together."""

    spark: SparkSession
    lake: Lake
    blocks: Blocks
    ials: dict[str, Any]
    work: str
    share_bytes: int
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def dim(self) -> int:
        return int(self.ials["dim"])

    @property
    def key(self) -> str:
        """Names what executors keep of this training."""
        return key_of(self.lake, self.work, self.run_id)

    @cached_property
    def broadcast_bytes(self) -> int:
        """The largest side that is broadcast: every worker of an executor unpickles a copy."""
        return self.share_bytes // tasks_per_executor(self.spark.sparkContext)

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
        shared_items = self.share_items(items, iteration)
        users_output = self.output(blocks.user_count, f"users-{iteration:04d}")
        task = solve_users(shared_items, anabranch.gramian(items), self.ials, users_output, blocks.is_grouped)
        solved = self.solved(blocks.users, task, blocks.user_blocks)
        gramian = self.users_gramian(solved)
        users: OneArray | InLake
        if isinstance(users_output, ToLake):
            paths = [users_output.path(block) for block in range(blocks.user_blocks)]
            users = InLake(self.lake, self.key, "users", iteration, paths, blocks.user_rows, blocks.user_count, self.dim)
        else:
            users = one_array(self.spark.sparkContext, self.joined((row.factors for row in solved), blocks.user_count))
        del solved
        items_output = self.output(len(items), f"next-items-{iteration:04d}")
        solved = self.solved(blocks.items, solve_items(users, gramian, self.ials, items_output), blocks.item_blocks)
        if isinstance(items_output, ToLake):
            parts = (self.lake.get(items_output.path(block)) for block in range(blocks.item_blocks))
        else:
            parts = (row.factors for row in solved)
        items = self.joined(parts, len(items))
        for shared in (shared_items, users):
            self.let_go(shared)
        if isinstance(items_output, ToLake):
            self.remove(items_output.folder)
        return items

    def share_items(self, items: F32, step: int) -> OneArray | InLake:
        """The item factors, which the driver holds, for tasks."""
        if items.nbytes <= self.broadcast_bytes:
            return one_array(self.spark.sparkContext, items)
        output = ToLake(self.lake, f"{self.work}/items-{step:04d}")
        rows = self.blocks.item_rows
        for block in range(self.blocks.item_blocks):
            output.leave(block, items[block * rows : (block + 1) * rows])
        paths = [output.path(block) for block in range(self.blocks.item_blocks)]
        return InLake(self.lake, self.key, "items", step, paths, rows, len(items), self.dim)

    def output(self, rows: int, step: str) -> ToDriver | ToLake:
        """Where a half-step's `rows` go."""
        if rows * self.dim * 4 <= self.broadcast_bytes:
            return ToDriver()
        return ToLake(self.lake, f"{self.work}/{step}")

    def solved(self, frame: DataFrame, task: Callable[[Batches], Iterator[pa.RecordBatch]], blocks: int) -> list[Row]:
        """A half-step's (factors, sums) in order of blocks."""
        rows = sorted(frame.mapInArrow(task, SOLVED_DDL).collect(), key=lambda row: row.block)
        check_blocks("a half-step", [row.block for row in rows], range(blocks))
        return rows

    def users_gramian(self, solved: list[Row]) -> F64:
        """The Gramian of the user factors from the blocks' sums."""
        each = GRAMIAN_BLOCK_ROWS * (GRAMIAN_GROUP_BLOCKS if self.blocks.is_grouped else 1)
        sums = np.empty((-(-self.blocks.user_count // each), self.dim, self.dim), np.float64)
        fill(sums, (np.frombuffer(row.sums, np.float64).reshape(-1, self.dim, self.dim) for row in solved))
        return gramian_sum(sums if self.blocks.is_grouped else gramian_groups(sums))

    def joined(self, parts: Iterable[bytes], rows: int) -> F32:
        """The blocks as one array, which they are copied into one after the other."""
        joined = np.empty((rows, self.dim), np.float32)
        fill(joined, (np.frombuffer(part, np.float32).reshape(-1, self.dim) for part in parts))
        return joined

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

    def release(self) -> None:
        """The model is published: nothing that executors keep is needed any more. What training would resume from stays."""
        let_go(self.spark, self.key)
        self.blocks.unpersist()

    def finish(self) -> None:
        """What comes after the model is done, too: nobody will resume."""
        self.remove(self.work)


def fill(whole: npt.NDArray[Any], parts: Iterable[npt.NDArray[Any]]) -> None:
    """Copies `parts` into `whole`, which they must fill."""
    at = 0
    for part in parts:
        if at + len(part) <= len(whole):
            whole[at : at + len(part)] = part
        at += len(part)
    if at != len(whole):
        raise RuntimeError(f"a half-step gave {at} rows, {len(whole)} are there: please report this")


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
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / "items.f32"
                self.lake.download(path, file)
                items = np.fromfile(file, np.float32)
            if hashlib.sha256(items).hexdigest() == digest:
                return int(iteration), items.reshape(self.rows, self.dim)
        return 0, None

    def keep(self, iteration: int, items: F32) -> None:
        """Writes the checkpoint, then removes those before."""
        path = f"{self.folder}/{iteration:06d}-{hashlib.sha256(items).hexdigest()}.f32"
        # By way of a file: S3 takes no more than 5 GiB at once, and a file goes in parts.
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "items.f32"
            items.tofile(file)
            self.lake.upload(path, file)
        for older, _, _ in self.lake.list(self.folder):
            if older != path:
                self.lake.delete(older)


def work_folder(rows: Rows, settings: Settings, core: tuple[int, int]) -> str:
    """Where a training run on these rows under these settings keeps its checkpoints: whoever runs it again finds them, with however many
    partitions and of whichever files of the lake. `core` are the least items of a user and users of an item (`k_core`)."""
    told = {
        "format": FORMAT,
        "version": anabranch.__version__,
        "rows": rows.digest.hex(),
        "items": rows.index.digest().hex(),
        "core": core,
        "ials": settings.ials,
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"{FOLDER}/{digest[:16]}"


def sweep(lake: Lake, now_ms: int) -> None:
    """Removes what runs left that were not taken up again: folders in which nothing was written for a day. A run that still works writes a
    checkpoint after each iteration."""
    newest: dict[str, int] = {}
    paths: dict[str, list[str]] = {}
    for path, _, modified_ms in lake.list(FOLDER):
        run = path.split("/")[1]
        newest[run] = max(newest.get(run, 0), modified_ms)
        paths.setdefault(run, []).append(path)
    for run in newest:
        if newest[run] < now_ms - ORPHAN_AGE_MS:
            for path in paths[run]:
                lake.delete(path)


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
    check_blocks("the items' popularity", [row.block for row in found], range(blocks.item_blocks))
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

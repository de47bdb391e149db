"""How tasks read the other side's factors, and how they give theirs back.

A small side is one array: solved blocks come back with the job's result and the driver broadcasts them, of which every Python worker keeps a
copy. So a side is broadcast only if the copies of an executor's workers take `share_bytes` together. A larger one stays in the lake, a
file for each block; an executor fetches what its tasks need once and all of them map the same file. The driver holds no
user factors then, and no Python worker a copy of its own.

What an executor fetches lies under a key of its own for each training: two of them in one Spark application never meet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import Broadcast, SparkContext, SparkFiles
from pyspark.sql import SparkSession

from anabranch import Lake
from anabranch.spark.etl import Batches, in_tasks

F32 = npt.NDArray[np.float32]


# ----------------------------------------------------------------------------------------------------- an executor's files


def key_of(lake: Lake, work: str, run: str) -> str:
    """Names what executors keep of one training: `run` is unique and made by the driver."""
    return hashlib.sha256(json.dumps([lake.url, work, run]).encode()).hexdigest()[:32]


def kept_folder(key: str) -> Path:
    """Where this executor keeps the files of a training. Spark removes what is left there with the application."""
    return Path(SparkFiles.getRootDirectory()) / "anabranch" / key


def fetched(place: Path, fetch: Callable[[Path], None]) -> Path:
    """`place`, a file or folder of this executor. If it is not there, one task makes it by `fetch` while those that need it wait; it
    gets its name when it is whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f".{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            partial = place.with_name(f".{place.name}.partial")
            # Of a task that was killed while it fetched.
            shutil.rmtree(partial, ignore_errors=True)
            partial.unlink(missing_ok=True)
            fetch(partial)
            partial.rename(place)
    return place


def let_go(spark: SparkSession, key: str) -> None:
    """Removes what executors keep of a training. An executor that is given no task of this keeps it until the application ends."""

    def run(batches: Batches):
        for _ in batches:
            shutil.rmtree(kept_folder(key), ignore_errors=True)
        yield pa.RecordBatch.from_pylist([], schema=pa.schema([("nothing", pa.int32())]))

    tasks = spark.sparkContext.defaultParallelism
    spark.range(0, tasks, 1, tasks).mapInArrow(in_tasks(run), "nothing int").collect()


# --------------------------------------------------------------------------------------------------------------- in tasks


def tasks_per_executor(context: SparkContext) -> int:
    """How many Python workers an executor runs at once, at most."""
    conf = context.getConf()
    cores = None if context.master.startswith("local") else conf.get("spark.executor.cores")
    # Where nothing is said, one executor may have all the cores.
    return max(1, int(cores or context.defaultParallelism) // int(conf.get("spark.task.cpus", "1")))


class Shared(Protocol):
    """One side's factors as tasks see them. Picklable."""

    count: int

    def array(self) -> F32:
        """All rows."""


@dataclass
class OneArray:
    """A side that fits into every worker's memory."""

    broadcast: Broadcast
    count: int

    def array(self) -> F32:
        return self.broadcast.value


@dataclass
class InLake:
    """A side in the lake: block `b` holds `block_rows` rows from `b × block_rows` on, the last one fewer.

    Files of an earlier step go when the same ones of a later step are fetched: a task that still maps one keeps it until it ends.
    """

    lake: Lake
    key: str
    side: str
    step: int
    paths: Sequence[str]
    block_rows: int
    count: int
    dim: int

    def array(self) -> F32:
        return self._mapped("all", self.paths).reshape(self.count, self.dim)

    def block(self, block: int) -> F32:
        """The rows of one block."""
        return self._mapped(f"{block:06d}", [self.paths[block]]).reshape(-1, self.dim)

    def _mapped(self, name: str, paths: Sequence[str]) -> F32:
        folder = kept_folder(self.key) / self.side

        def fetch(partial: Path) -> None:
            for old in folder.glob(f"{name}.*.f32"):
                old.unlink(missing_ok=True)
            with partial.open("wb") as out:
                for path in paths:
                    out.write(self.lake.get(path))

        return np.memmap(fetched(folder / f"{name}.{self.step:06d}.f32", fetch), np.float32, "r")


def one_array(context: SparkContext, factors: F32) -> OneArray:
    """Broadcasts a side."""
    return OneArray(context.broadcast(factors), len(factors))


class Output(Protocol):
    """Where a task leaves the rows that it solved. Picklable."""

    def leave(self, block: int, solved: F32) -> bytes:
        """What goes back to the driver."""


@dataclass
class ToDriver:
    """The rows themselves go back."""

    def leave(self, block: int, solved: F32) -> bytes:
        return solved.tobytes()


@dataclass
class ToLake:
    """The rows go to the lake, under the block's number; a task that is tried again writes the same bytes."""

    lake: Lake
    folder: str

    def path(self, block: int) -> str:
        return f"{self.folder}/{block:06d}.f32"

    def leave(self, block: int, solved: F32) -> bytes:
        self.lake.put(self.path(block), solved.tobytes())
        return b""

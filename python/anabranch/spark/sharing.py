"""How tasks read the other side's factors, and how they give theirs back.

Up to `share_bytes` a side is one array: solved blocks come back with the job's result and the driver broadcasts them. A larger side stays in
the lake, a file for each block; an executor fetches what its tasks need once and all of them map the same file. The driver
holds no user factors then, and no Python worker a copy of its own.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pyspark import Broadcast, SparkContext, SparkFiles

from anabranch import Lake

F32 = npt.NDArray[np.float32]


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

    Files are kept in a folder that Spark removes with the application. Those of an earlier step go when a later one is fetched: a task that
    still maps one keeps it until it ends.
    """

    lake: Lake
    step: str
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
        folder = Path(SparkFiles.getRootDirectory()) / "anabranch-factors"
        folder.mkdir(exist_ok=True)
        place = folder / f"{self.step}.{name}.f32"
        # One task fetches while those that need the same file wait; others are not held up.
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                for old in folder.glob(f"*.{name}.f32"):
                    old.unlink(missing_ok=True)
                partial = place.with_suffix(".partial")
                with partial.open("wb") as out:
                    for path in paths:
                        out.write(self.lake.get(path))
                partial.rename(place)
        return np.memmap(place, np.float32, "r")


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

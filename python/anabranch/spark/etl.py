"""The ETL under Spark: the local command's map and fold, with Spark's shuffles between them.

Every record travels as the wheel made it (`RECORD_SCHEMA`): Spark sees a kind, a key to shuffle and sort by, and bytes. Data files are
written by the tasks, named by their content and created once, so a task that is tried again does no harm. Nothing is
visible before the driver publishes the manifest, which checks the books first.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zipimport import zipimporter

import pyarrow as pa
from pyspark import StorageLevel, TaskContext
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.functions import col, length
from pyspark.sql.functions import max as max_of
from pyspark.sql.functions import sum as sum_of

import anabranch
from anabranch import Dataset, EtlPlan, Record

# Fewer, larger tasks than this for folders of many small files: a task takes some 50 ms by itself.
MAP_TASKS_MAX = 10_000
# Raw bytes, as stored, for each partition of the shuffles: some 300,000 rows of text, or a few million in gzip, which a task folds in
# seconds and holds the histories of. Beyond 64 GiB partitions grow instead: each of them costs tasks and files.
PARTITION_BYTES = 16 << 20
PARTITIONS_MAX = 4096
# Bytes of records that Spark hands to a task at once.
BATCH_BYTES = 64 << 20
# Lines of refused rows that one task of the quarantine's writer takes, and its tasks at most.
REFUSED_BYTES_PER_TASK = 256 << 20
REFUSED_TASKS_MAX = 100

Batches = Iterable[pa.RecordBatch]


def in_tasks(run: Callable[[Batches], Iterator[pa.RecordBatch]]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """`run` as a function for mapInArrow: the wheel computes on the threads that Spark gives a task."""

    def task(batches: Batches) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        anabranch.set_num_threads(context.cpus() if context else 1)
        forget_archives()
        yield from run(batches)

    return task


def forget_archives() -> None:
    """Lets the importers of zip archives go. PySpark itself is imported from one, and before each task its worker tells every importer to
    read its archive's directory again: a fifth of a second a task, as much as an iteration's half-step takes. Python makes
    them anew for whatever is imported after this."""
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]


def partition_number() -> int:
    """Which partition the running task computes."""
    context = TaskContext.get()
    return context.partitionId() if context else 0


def each(spark: SparkSession, count: int, tasks_max: int = MAP_TASKS_MAX) -> DataFrame:
    """The numbers 0 to `count`, dealt to at most `tasks_max` tasks."""
    return spark.range(0, count, 1, max(1, min(count, tasks_max)))


def each_of_lake(spark: SparkSession, count: int) -> DataFrame:
    """As `each`, for files of the lake: they are many (a file for each day and partition), small and alike, so a core is given sixteen
    tasks and not one for each file."""
    return each(spark, count, min(MAP_TASKS_MAX, 16 * spark.sparkContext.defaultParallelism))


def numbers(batches: Batches) -> Iterator[int]:
    """The numbers that a task of `each` was dealt."""
    for batch in batches:
        yield from batch.column(0).to_pylist()


def map_files(plan: EtlPlan) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Reads the files that a task was dealt."""
    return in_tasks(lambda batches: (batch for number in numbers(batches) for batch in plan.map_file(number)))


def fold(plan: EtlPlan) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Folds the owners of a partition."""
    return in_tasks(lambda batches: plan.fold(partition_number(), batches))


def write_quarantine(plan: EtlPlan) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Writes the refused rows of a partition."""
    return in_tasks(lambda batches: plan.write_quarantine(partition_number(), batches))


def held_records(plan: EtlPlan, files: Sequence[tuple[str, str]]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """What the dataset holds already, as records to fold with the new ones, and what it has in quarantine, which stays there."""
    stages = {"interactions": plan.rows_of_interactions, "histories": plan.histories_to_join, "quarantine": plan.carried_quarantine}

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for number in numbers(batches):
            kind, file = files[number]
            yield from stages[kind](file)

    return in_tasks(run)


def partitions_for(plan: EtlPlan) -> int:
    """Partitions of the ETL's shuffles: a function of the raw files and of nothing else. Files of the lake are cut by them, so on the same
    raw files any cluster publishes the same manifest, and a run that is started again on another one finds its files."""
    return max(1, min(-(-plan.input_bytes // PARTITION_BYTES), PARTITIONS_MAX))


@contextmanager
def records_per_batch(spark: SparkSession, count: int) -> Iterator[None]:
    """Jobs that are planned, and frames that are persisted inside hand `count` records to Python at a time, or as many as the session says if
    that is fewer. Spark counts records, not bytes, and a batch ends at 2 GiB."""
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    spark.conf.set(name, str(min(count, int(before)) if int(before) > 0 else count))
    try:
        yield
    finally:
        spark.conf.set(name, before)


@dataclass(frozen=True)
class Sizes:
    """How large the records of a kind are."""

    bytes: int = 0
    longest: int = 0

    @property
    def per_batch(self) -> int:
        """So many records take `BATCH_BYTES` at most."""
        return max(1, BATCH_BYTES // max(1, self.longest))


def sizes_of(records: DataFrame) -> dict[int, Sizes]:
    """The sizes of each kind of records."""
    size = length("key") + length("row")
    rows = records.groupBy("kind").agg(sum_of(size).alias("bytes"), max_of(size).alias("longest")).collect()
    return {row.kind: Sizes(row.bytes, row.longest) for row in rows}


def run(spark: SparkSession, plan: EtlPlan, partitions: int, held: Dataset | None = None) -> dict[str, Any]:
    """Runs the plan and publishes; returns what `EtlPlan.publish` says. With `held`, its interactions and histories are folded
    together with the plan's (an incremental run)."""

    def of_kind(frame: DataFrame, *kinds: Record) -> DataFrame:
        return frame.where(col("kind").isin([int(kind) for kind in kinds]))

    def shuffled(frame: DataFrame, by: str, *order: str) -> DataFrame:
        return frame.repartition(partitions, by).sortWithinPartitions(*order)

    def told_by(frame: DataFrame, stage: Callable[[Batches], Iterator[pa.RecordBatch]]) -> list[Row]:
        return frame.mapInArrow(stage, anabranch.RECORD_DDL).collect()

    mapped = each(spark, len(plan.files)).mapInArrow(map_files(plan), anabranch.RECORD_DDL)
    if held is not None:
        files = [(kind, file) for kind in ("interactions", "histories", "quarantine") for file in held.files(kind)]
        mapped = mapped.union(each_of_lake(spark, len(files)).mapInArrow(held_records(plan, files), anabranch.RECORD_DDL))
    # Read once by each consumer below; on disk, since it is as large as the input.
    mapped = mapped.persist(StorageLevel.DISK_ONLY)
    kept = [mapped]
    try:
        sizes = defaultdict(Sizes, sizes_of(mapped))
        told = of_kind(mapped, Record.ACCOUNT, Record.COUNTS).collect()
        # Clean rows are rows that were folded: as long.
        with records_per_batch(spark, sizes[Record.ROW].per_batch):
            folded = shuffled(of_kind(mapped, Record.ROW), "key", "key").mapInArrow(fold(plan), anabranch.RECORD_DDL)
            kept.append(folded.persist(StorageLevel.DISK_ONLY))
            told += of_kind(folded, Record.FILE, Record.COUNTS).collect()
            told += told_by(shuffled(of_kind(folded, Record.CLEAN), "part", "part", "key"), in_tasks(plan.write_days))
        with records_per_batch(spark, sizes[Record.ITEM].per_batch):
            told += told_by(shuffled(of_kind(mapped, Record.ITEM), "key", "key"), in_tasks(plan.write_items))
        refused = sizes[Record.QUARANTINE]
        with records_per_batch(spark, refused.per_batch):
            # The range of a partition decides its place in the quarantine, so few are made and each is sorted.
            tasks = min(1 + refused.bytes // REFUSED_BYTES_PER_TASK, REFUSED_TASKS_MAX)
            lines = of_kind(mapped, Record.QUARANTINE).repartitionByRange(tasks, "key").sortWithinPartitions("key")
            told += told_by(lines, write_quarantine(plan))
    finally:
        for frame in reversed(kept):
            frame.unpersist()
    return plan.publish([as_batch(told)])


def as_batch(rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Collected rows as one batch of records."""
    columns = list(zip(*rows)) or [()] * len(anabranch.RECORD_SCHEMA)
    arrays = [
        pa.array([bytes(value) if isinstance(value, bytearray) else value for value in column], field.type)
        for column, field in zip(columns, anabranch.RECORD_SCHEMA)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=anabranch.RECORD_SCHEMA)

"""The ETL under Spark: the local command's map and fold, with Spark's shuffles between them.

Every record travels as the wheel made it (`RECORD_SCHEMA`): Spark sees a kind, a key to shuffle and sort by, and bytes. Data files are
written by the tasks, named by their content and created once, so a task that is tried again does no harm. Nothing is
visible before the driver publishes the manifest, which checks the books first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark import StorageLevel, TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col

import anabranch
from anabranch import Dataset, EtlPlan, Record

# Fewer, larger tasks than this for folders of many small files: a task takes some 50 ms by itself.
MAP_TASKS_MAX = 10_000
# Refused rows that one task of the quarantine's writer takes, and its tasks at most.
REFUSED_ROWS_PER_TASK = 200_000
REFUSED_TASKS_MAX = 100

Batches = Iterable[pa.RecordBatch]


def in_tasks(run: Callable[[Batches], Iterator[pa.RecordBatch]]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """`run` as a function for mapInArrow: the wheel computes on the threads that Spark gives a task."""

    def task(batches: Batches) -> Iterator[pa.RecordBatch]:
        context = TaskContext.get()
        anabranch.set_num_threads(context.cpus() if context else 1)
        yield from run(batches)

    return task


def partition_number() -> int:
    """Which partition the running task computes."""
    context = TaskContext.get()
    return context.partitionId() if context else 0


def each(spark: SparkSession, count: int, tasks_max: int = MAP_TASKS_MAX) -> DataFrame:
    """The numbers 0 to `count`, dealt to at most `tasks_max` tasks."""
    return spark.range(0, count, 1, max(1, min(count, tasks_max)))


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


def held_rows(plan: EtlPlan, files: Sequence[tuple[str, str]]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """What the dataset holds already, as records to fold with the new ones."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for number in numbers(batches):
            kind, file = files[number]
            yield from plan.rows_of_interactions(file) if kind == "interactions" else plan.histories_to_join(file)

    return in_tasks(run)


def carried_quarantine(plan: EtlPlan) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """What the dataset has in quarantine stays there; one task takes it over."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        for _ in numbers(batches):
            yield plan.carried_quarantine()

    return in_tasks(run)


def run(spark: SparkSession, plan: EtlPlan, partitions: int, held: Dataset | None = None) -> dict[str, Any]:
    """Runs the plan and publishes; returns what `EtlPlan.publish` says. With `held`, its interactions and histories are folded
    together with the plan's (an incremental run)."""

    def of_kind(frame: DataFrame, *kinds: Record) -> DataFrame:
        return frame.where(col("kind").isin([int(kind) for kind in kinds]))

    def shuffled(frame: DataFrame, by: str, *order: str) -> DataFrame:
        return frame.repartition(partitions, by).sortWithinPartitions(*order)

    mapped = each(spark, len(plan.files)).mapInArrow(map_files(plan), anabranch.RECORD_DDL)
    if held is not None:
        mapped = mapped.union(each(spark, 1).mapInArrow(carried_quarantine(plan), anabranch.RECORD_DDL))
    # Read once by each consumer below; on disk, since it is as large as the input.
    mapped = mapped.persist(StorageLevel.DISK_ONLY)
    rows = of_kind(mapped, Record.ROW)
    if held is not None:
        files = [(kind, file) for kind in ("interactions", "histories") for file in held.files(kind)]
        if files:
            rows = rows.union(each(spark, len(files)).mapInArrow(held_rows(plan, files), anabranch.RECORD_DDL))
    folded = shuffled(rows, "key", "key").mapInArrow(fold(plan), anabranch.RECORD_DDL).persist(StorageLevel.DISK_ONLY)
    days = shuffled(of_kind(folded, Record.CLEAN), "part", "part", "key")
    items = shuffled(of_kind(mapped, Record.ITEM), "key", "key")
    refused = of_kind(mapped, Record.QUARANTINE)
    try:
        # The range of a partition decides its place in the quarantine, so few are made and each is sorted.
        tasks = min(1 + refused.count() // REFUSED_ROWS_PER_TASK, REFUSED_TASKS_MAX)
        refused = refused.repartitionByRange(tasks, "key").sortWithinPartitions("key")
        told = [
            of_kind(mapped, Record.ACCOUNT, Record.COUNTS),
            of_kind(folded, Record.FILE, Record.COUNTS),
            days.mapInArrow(in_tasks(plan.write_days), anabranch.RECORD_DDL),
            items.mapInArrow(in_tasks(plan.write_items), anabranch.RECORD_DDL),
            refused.mapInArrow(write_quarantine(plan), anabranch.RECORD_DDL),
        ]
        records = [row for frame in told for row in frame.collect()]
    finally:
        folded.unpersist()
        mapped.unpersist()
    return plan.publish([as_batch(records)])


def as_batch(rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Collected rows as one batch of records."""
    columns = list(zip(*rows)) or [()] * len(anabranch.RECORD_SCHEMA)
    arrays = [
        pa.array([bytes(value) if isinstance(value, bytearray) else value for value in column], field.type)
        for column, field in zip(columns, anabranch.RECORD_SCHEMA)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=anabranch.RECORD_SCHEMA)

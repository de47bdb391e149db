#!/usr/bin/env python3
"""Rank-64 ALS on Gowalla under Spark: our half-steps beside MLlib's ALS, one session, one machine, the same partitions.

    python bench/spark_als.py [--data ../shared/data/gowalla] [--only ours|mllib]

Seconds for each iteration, and Recall@20 of both by one function: the lists are the exact products of the factors, without the items of training, over
all items and all test users. MLlib tells no times of iterations: its figure is the difference of a short and a long run, divided by the
iterations between them, so that reading and block-making cost it nothing. Ours is the median of the iterations after the first, after a run of
its own that warms the JVM. Needs the wheel and pyspark; prints one JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

import anabranch
from anabranch.spark import etl, ials, rows

RANK = 64
# Ours: as crates/evaluation/examples/gowalla.rs chose them on a validation split cut from train. So are five iterations: more are worse there.
OURS = {"dim": RANK, "regularisation": 0.015, "unobserved_weight": 0.004, "frequency_exponent": 1.0, "initial_deviation": 0.1, "seed": 1}
# MLlib's: α 40 as for implicit; λ is multiplied by the number of entries there.
MLLIB = {"rank": RANK, "implicitPrefs": True, "alpha": 40.0, "regParam": 0.1, "seed": 1}


def read_pairs(path):
    """`user item item …` a line: {user: items ascending}."""
    found = {}
    for line in path.read_text().splitlines():
        user, *items = map(int, line.split())
        found.setdefault(user, set()).update(items)
    return {user: np.array(sorted(items), np.int32) for user, items in found.items()}


def session(partitions):
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{os.cpu_count()}]").appName("bench").config("spark.ui.enabled", "false")
    for name, value in {"driver.memory": "3g", "driver.maxResultSize": "0", "driver.bindAddress": "127.0.0.1", "driver.host": "127.0.0.1",
                        "sql.shuffle.partitions": str(partitions)}.items():
        builder = builder.config(f"spark.{name}", value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def item_name(item):
    return f"{item:06d}"  # so that the rank of an id's bytes is its number


def ours(spark, path, train, item_count, partitions, iterations):
    """Our half-steps; (seconds of each iteration, user factors, item factors), users ascending."""

    def read(batches):
        for part in etl.numbers(batches):
            pairs = read_pairs(path)
            users = [user for user in sorted(pairs) if user % partitions == part]
            yield rows.batch_of(rows.ROW_DDL, [
                [rows.A_ROW] * len(users), [f"u{user:06d}".encode() for user in users], [pairs[user].tobytes() for user in users],
                [np.ones(len(pairs[user]), np.float32).tobytes() for user in users],
            ])

    frame = spark.range(0, partitions, 1, partitions).mapInArrow(etl.in_tasks(read), rows.ROW_DDL)
    frame = frame.repartitionByRange(partitions, "key").sortWithinPartitions("key").persist()
    index = anabranch.ItemIndex([item_name(item) for item in range(item_count)])
    made = rows.Rows(frame, frame, index, np.zeros((item_count, 2), np.uint64), 0, b"")
    settings = {**anabranch.Settings().ials, **OURS, "iterations": iterations}
    blocks = rows.blocks_of(spark, made, partitions, settings["dim"])
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = ials.Trainer(spark, anabranch.Lake(folder), blocks, settings, "training/bench", 1 << 30)
        found = trainer.run(lambda done: seconds.append(done.seconds))
    with rows.large_records(spark):
        indptr, items, data = ials.matrix_of(blocks)
    users = anabranch.half_step(indptr, items, data, found.items, found.gramian, settings, count=len(found.items))
    blocks.unpersist()
    everywhere = np.zeros((item_count, RANK), np.float32)
    everywhere[blocks.is_used] = found.items
    return seconds, dict(zip(sorted(train), users)), everywhere


def mllib(spark, train, item_count, partitions, iterations):
    """MLlib's ALS: (seconds of the whole run, user factors, item factors)."""
    from pyspark.ml.recommendation import ALS

    users = np.concatenate([np.full(len(items), user) for user, items in sorted(train.items())])
    items = np.concatenate([items for _, items in sorted(train.items())])
    folder = Path(tempfile.mkdtemp())
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"user": users.astype(np.int32), "item": items, "rating": np.ones(len(users), np.float32)}), folder / "pairs.parquet")
    pairs = spark.read.parquet(os.fspath(folder)).repartition(partitions).persist()
    pairs.count()
    begin = time.perf_counter()
    model = ALS(maxIter=iterations, numUserBlocks=partitions, numItemBlocks=partitions, userCol="user", itemCol="item", ratingCol="rating",
                **MLLIB).fit(pairs)
    seconds = time.perf_counter() - begin
    found = np.zeros((item_count, RANK), np.float32)
    for row in model.itemFactors.collect():
        found[row.id] = row.features
    factors = {row.id: np.array(row.features, np.float32) for row in model.userFactors.collect()}
    pairs.unpersist()
    return seconds, factors, found


def recall(users, items, train, test):
    """Recall@20 of the exact lists, by the wheel's formula."""
    testers = sorted(user for user in test if user in users)
    lists = np.empty((len(testers), 20), np.int32)
    for begin in range(0, len(testers), 1024):
        part = testers[begin : begin + 1024]
        scores = np.stack([users[user] for user in part]) @ items.T
        for row, user in enumerate(part):
            scores[row, train[user]] = -np.inf
        best = np.argpartition(-scores, 20, axis=1)[:, :20]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        lists[begin : begin + len(part)] = np.take_along_axis(best, order, axis=1)
    indptr = np.concatenate([[0], np.cumsum([len(test[user]) for user in testers])]).astype(np.int64)
    indices = np.concatenate([test[user] for user in testers]).astype(np.int32)
    told = anabranch.evaluate_lists(lists, (indptr, indices, np.ones(len(indices), np.float32)), 20, item_count=len(items))
    return told["recall"]


def main():
    default = Path(os.environ.get("ANABRANCH_TEST_DATA", "../shared/data")) / "gowalla"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--partitions", type=int, default=2 * os.cpu_count())
    parser.add_argument("--iterations", type=int, default=5, help="of ours")
    parser.add_argument("--mllib-iterations", type=int, default=10)
    parser.add_argument("--warm", type=int, default=10, help="iterations of ours before")
    parser.add_argument("--mllib-short", type=int, default=2, help="iterations of the run that is subtracted")
    parser.add_argument("--only", choices=["ours", "mllib"], nargs="*")
    arguments = parser.parse_args()
    wanted = set(arguments.only or ["ours", "mllib"])
    path = (arguments.data / "train.txt").resolve()
    train, test = read_pairs(path), read_pairs(arguments.data / "test.txt")
    item_count = 1 + max(int(items.max()) for pairs in (train, test) for items in pairs.values())
    told = {"partitions": arguments.partitions, "items": item_count, "users": len(train), "cores": os.cpu_count()}
    spark = session(arguments.partitions)
    try:
        if "ours" in wanted:
            ours(spark, path, train, item_count, arguments.partitions, arguments.warm)
            seconds, users, items = ours(spark, path, train, item_count, arguments.partitions, arguments.iterations)
            told["ours"] = {"iterations": arguments.iterations, "secondsPerIteration": statistics.median(seconds[1:]), "recall@20": recall(users, items, train, test)}
        if "mllib" in wanted:
            short = mllib(spark, train, item_count, arguments.partitions, arguments.mllib_short)[0]
            long, users, items = mllib(spark, train, item_count, arguments.partitions, arguments.mllib_iterations)
            each = (long - short) / (arguments.mllib_iterations - arguments.mllib_short)
            told["mllib"] = {"iterations": arguments.mllib_iterations, "secondsPerIteration": each, "recall@20": recall(users, items, train, test)}
    finally:
        spark.stop()
    print(json.dumps(told))


if __name__ == "__main__":
    main()

"""What a published model leaves in the lake beside itself: lists for every user, and embeddings as files.

Both are functions of (dataset, snapshot) and carry the version in their folder. A `written.json` says that a folder is whole and what it was made
from; a second run finds it and does nothing. `anabranch forget` removes what names users: all lists, and the users' embeddings.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import SparkFiles
from pyspark.sql import SparkSession

import anabranch
from anabranch import Dataset, Lake, Model, Registry, Settings
from anabranch.spark.etl import Batches, in_tasks, partition_number
from anabranch.spark.ials import F64, Trainer
from anabranch.spark.rows import Blocks, batch_of, cells, check_blocks, large_records, routed, sparse
from anabranch.spark.sharing import F32, InLake, OneArray

BULK = "bulk"
EMBEDDINGS = "embeddings"
WRITTEN = "written.json"
WRITTEN_DDL = "rows bigint, path string"
# Embeddings, or users with their lists, of one file: a task holds one of them.
ROWS_PER_FILE = 200_000


def is_written(lake: Lake, folder: str, told: dict[str, Any]) -> bool:
    """Whether the folder is whole and was made from just this."""
    path = f"{folder}/{WRITTEN}"
    return lake.exists(path) and json.loads(lake.get(path)) == told


def mark_written(lake: Lake, folder: str, told: dict[str, Any], paths: Sequence[str]) -> None:
    """Removes what an earlier run left beside `paths`, then says that the folder is whole."""
    kept = {*paths, f"{folder}/{WRITTEN}"}
    for path, _, _ in lake.list(folder):
        if path not in kept:
            lake.delete(path)
    lake.put(f"{folder}/{WRITTEN}", json.dumps(told, sort_keys=True).encode())


def prune(lake: Lake, root: str, kept: Iterable[str], count: int) -> None:
    """Of the versions below `root` only those of `kept` and the newest stay, `count` in all if more are not kept."""
    newest: dict[str, int] = {}
    paths: dict[str, list[str]] = {}
    for path, _, modified_ms in lake.list(root):
        version = path.split("/")[1]
        newest[version] = max(newest.get(version, 0), modified_ms)
        paths.setdefault(version, []).append(path)
    stays = set(kept) & set(newest)
    for version in sorted(newest, key=lambda version: (newest[version], version), reverse=True):
        if version in stays or len(stays) < count:
            stays.add(version)
            continue
        for path in paths[version]:
            lake.delete(path)


_open_models: dict[tuple[str, str], Model] = {}


def opened(models: Lake, version: str) -> Model:
    """The model, opened once by each worker; an executor's workers map one file."""
    key = (models.url, version)
    if key not in _open_models:
        folder = Path(SparkFiles.getRootDirectory()) / "anabranch-models"
        folder.mkdir(parents=True, exist_ok=True)
        _open_models.clear()
        _open_models[key] = Registry(models).open(folder, version)
    return _open_models[key]


# ------------------------------------------------------------------------------------------------------------- bulk lists


def bulk(
    spark: SparkSession, lake: Lake, models: Lake, version: str, dataset: Dataset, settings: Settings, partitions: int, length: int, hide: str
) -> dict[str, Any]:
    """Lists for every user, as JSON Lines in Personalize's batch form and as Parquet, pairs of files for each partition."""
    folder = f"{BULK}/{version}"
    told = {"dataset": dataset.number, "length": length, "hide": hide}
    if is_written(lake, folder, told):
        return {"users": None, "folder": folder, "is_new": False}
    # What is rewritten is not whole meanwhile.
    lake.delete(f"{folder}/{WRITTEN}")

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        model = opened(models, version)
        lists = (model.bulk_lists(histories, length, hide=hide) for histories in anabranch.join_histories(batches, settings))
        for part in itertools.count():
            parquet, lines, users = encoded(lists, ROWS_PER_FILE)
            if not users:
                return
            for ending, data in (("parquet", parquet), ("jsonl.zst", lines)):
                path = f"{folder}/recommendations-{partition_number():05d}-{part:03d}.{ending}"
                lake.put(path, data)
                yield batch_of(WRITTEN_DDL, [[users if ending == "parquet" else 0], [path]])

    written = routed(spark, dataset, settings, partitions).mapInArrow(in_tasks(run), WRITTEN_DDL).collect()
    mark_written(lake, folder, told, [row.path for row in written])
    return {"users": sum(row.rows for row in written), "folder": folder, "is_new": True}


def encoded(batches: Iterator[pa.RecordBatch], users_max: int) -> tuple[bytes, bytes, int]:
    """The next lists as (Parquet, zstd of JSON Lines, number of users): up to the batch that brings them to `users_max` or more. A user's rows
    stand in one batch. No users: there are no lists left."""
    parquet, packed, users = io.BytesIO(), pa.BufferOutputStream(), 0
    table = None
    with pa.CompressedOutputStream(packed, "zstd") as lines:
        for batch in batches:
            if not batch.num_rows:
                continue
            if table is None:
                table = pq.ParquetWriter(parquet, batch.schema, compression="zstd")
            table.write_batch(batch)
            for line in json_lines(batch):
                users += 1
                lines.write(line)
            if users >= users_max:
                break
    if table is not None:
        table.close()
    return parquet.getvalue(), packed.getvalue().to_pybytes(), users


def json_lines(batch: pa.RecordBatch) -> Iterator[bytes]:
    """Personalize's batch form, a line for each user; a user's rows stand together, best first."""
    users, items = batch.column("user_id").to_pylist(), batch.column("item_id").to_pylist()
    # The shortest text that reads back as the same single-precision number.
    scores = [str(score) for score in np.asarray(batch.column("score")).astype(np.float32)]
    begin = 0
    for end in range(1, len(users) + 1):
        if end == len(users) or users[end] != users[begin]:
            head = json.dumps({"userId": users[begin]}, ensure_ascii=False)
            chosen = json.dumps(items[begin:end], ensure_ascii=False)
            listed = f'{{"recommendedItems":{chosen},"scores":[{",".join(scores[begin:end])}]}}'
            yield f'{{"input":{head},"output":{listed},"error":null}}\n'.encode()
            begin = end


# ------------------------------------------------------------------------------------------------------------- embeddings


def vectors_table(ids: Sequence[str], vectors: F32, metadata: Sequence[dict[str, Any]]) -> bytes:
    """A Parquet file of embeddings; rows without a direction are left out, cosine has no meaning for them."""
    has_direction = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    places = np.flatnonzero(has_direction)
    flat = pa.array(vectors[places].reshape(-1))
    table = pa.table({
        "id": pa.array([ids[place] for place in places], pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        "metadata": pa.array([json.dumps(metadata[place], ensure_ascii=False) for place in places], pa.string()),
    })
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def item_metadata(titles: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Title and category where they are known."""
    return [{name: text for name, text in zip(("title", "category"), pair) if text} for pair in titles]


def write_parts(lake: Lake, name: str, rows: int, table: Callable[[slice], bytes]) -> list[str]:
    """`rows` rows of embeddings, as many to a file as one holds."""
    paths = []
    for part, begin in enumerate(range(0, rows, ROWS_PER_FILE)):
        paths.append(f"{name}-{part:05d}.parquet")
        lake.put(paths[-1], table(slice(begin, begin + ROWS_PER_FILE)))
    return paths


def write_items(
    lake: Lake, folder: str, ids: Sequence[str], factors: F32, titles: Sequence[tuple[str, str]], users_of: np.ndarray, users_min: int
) -> list[str]:
    """Item embeddings, without items that too few users touched."""
    wanted = np.flatnonzero(users_of >= users_min)
    metadata = item_metadata(titles)

    def table(part: slice) -> bytes:
        places = wanted[part]
        return vectors_table([ids[place] for place in places], factors[places], [metadata[place] for place in places])

    return write_parts(lake, f"{folder}/items", len(wanted), table)


def user_rows(keys: Sequence[bytes], factors: F32, entries: np.ndarray) -> tuple[list[str], F32, list[dict[str, int]]]:
    """Of a block's rows those of users: ids, vectors, metadata. Sessions have no embedding."""
    places = [place for place, key in enumerate(keys) if key[:1] == b"u"]
    ids = [bytes(keys[place][1:]).decode() for place in places]
    return ids, factors[places], [{"items": int(entries[place])} for place in places]


def write_users(lake: Lake, folder: str, keys: Sequence[bytes], factors: F32, entries: np.ndarray) -> list[str]:
    """User embeddings."""
    return write_parts(
        lake, f"{folder}/users", len(keys), lambda part: vectors_table(*user_rows(keys[part], factors[part], entries[part]))
    )


def solve_and_write(
    items: OneArray | InLake, gramian: F64, ials: dict[str, Any], lake: Lake, folder: str
) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """The last exact half-step of the users: their factors go to files and nowhere else."""

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        factors = items.array()
        for batch in batches:
            for cell in cells(batch):
                rows = sparse(cell, "items")
                solved = anabranch.half_step(rows.indptr, rows.indices, rows.data, factors, gramian, ials, count=items.count)
                ends = np.frombuffer(cell["key_ends"], np.int64)
                keys = [bytes(cell["keys"][begin:end]) for begin, end in zip([0, *ends[:-1]], ends)]
                path = f"{folder}/users-{rows.block:05d}.parquet"
                lake.put(path, vectors_table(*user_rows(keys, solved, np.diff(rows.indptr))))
                yield batch_of(WRITTEN_DDL, [[rows.rows], [path]])

    return in_tasks(run)


def item_users(blocks: Blocks) -> np.ndarray:
    """How many users each item has."""
    found = sorted(blocks.items.select("block", "indptr").collect(), key=lambda row: row.block)
    check_blocks("the items' users", [row.block for row in found], range(blocks.item_blocks))
    return np.concatenate([np.diff(np.frombuffer(row.indptr, np.int64)) for row in found])


def embeddings_of_blocks(
    trainer: Trainer, item_factors: F32, gramian: F64, titles: Sequence[tuple[str, str]], folder: str, users_min: int
) -> list[str]:
    """Embeddings of a distributed model."""
    blocks = trainer.blocks
    paths = write_items(trainer.lake, folder, blocks.index.ids, item_factors, titles, item_users(blocks), users_min)
    with large_records(trainer.spark):
        shared = trainer.share_items(item_factors, int(trainer.ials["iterations"]) + 1)
        task = solve_and_write(shared, gramian, trainer.ials, trainer.lake, folder)
        written = blocks.users.mapInArrow(task, WRITTEN_DDL).collect()
        trainer.let_go(shared)
    if sum(row.rows for row in written) != blocks.user_count:
        raise RuntimeError(f"embeddings of {sum(row.rows for row in written)} users, there are {blocks.user_count}: please report this")
    return paths + [row.path for row in written]

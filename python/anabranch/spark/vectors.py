"""Embeddings of a model version from the lake's files into a vector database on a server.

The files say what belongs there. A `loaded.json` beside them says what was loaded, and where to; if the database still holds as many records,
nothing is done, else the collections are made anew. Nobody asks for a version before it is promoted, so what is half written is seen by nobody.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from anabranch import Lake, VectorDatabase
from anabranch.spark.etl import Batches, each, in_tasks, numbers

LOADED = "loaded.json"
LOADED_DDL = "rows bigint"
# At most so many tasks write at once: each has a connection of its own.
WRITERS_MAX = 16


def put(database: VectorDatabase, name: str, version: str, tables: Sequence[pa.Table]) -> int:
    """Puts the records of these files in one call."""
    table = pa.concat_tables(tables).combine_chunks()
    if not table.num_rows:
        return 0
    vectors = table.column("vector").combine_chunks()
    dim = vectors.type.list_size
    rows = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    metadata = [json.loads(text) for text in table.column("metadata").to_pylist()]
    database.upsert(name, version, table.column("id").to_pylist(), rows, metadata)
    return table.num_rows


def read(lake: Lake, path: str) -> pa.Table:
    """A file of embeddings."""
    return pq.read_table(io.BytesIO(lake.get(path)))


def load(spark: SparkSession, lake: Lake, folder: str, version: str, database: VectorDatabase, place: str) -> dict[str, int]:
    """Loads what `folder` holds; returns how many records of each collection are there. `place` names the database among others."""
    names = [entry[0] for entry in lake.list(folder)]
    marker = f"{folder}/{LOADED}"
    told = json.loads(lake.get(marker)) if marker in names else {}
    if told.get("place") == place and all(database.count(name, version) == rows for name, rows in told["rows"].items()):
        return told["rows"]
    loaded = {}
    for name in ("items", "users") if database.users else ("items",):
        files = sorted(path for path in names if path.rsplit("/", 1)[1].startswith(f"{name}-"))
        database.drop_version(name, version)
        # Of items all in one call: an index is built once, after it. Of users the first file makes the collection, so that tasks do not race to.
        alone = files if name == "items" else files[:1]
        rows = put(database, name, version, [read(lake, path) for path in alone]) if alone else 0
        rows += load_in_tasks(spark, lake, files[len(alone) :], name, version, database)
        found = database.count(name, version)
        if found != rows:
            raise RuntimeError(f"the vector database holds {found} of {rows} {name} of {version}: run the job again")
        loaded[name] = rows
    lake.put(marker, json.dumps({"place": place, "rows": loaded}, sort_keys=True).encode())
    return loaded


def load_in_tasks(spark: SparkSession, lake: Lake, files: Sequence[str], name: str, version: str, database: VectorDatabase) -> int:
    """Files as tasks; a task that is tried again puts the same records under the same ids. Returns how many records there are."""
    if not files:
        return 0

    def run(batches: Batches) -> Iterator[pa.RecordBatch]:
        rows = sum(put(database, name, version, [read(lake, files[number])]) for number in numbers(batches))
        yield pa.RecordBatch.from_pydict({"rows": [rows]})

    return sum(row.rows for row in each(spark, len(files), WRITERS_MAX).mapInArrow(in_tasks(run), LOADED_DDL).collect())


def drop_old(database: VectorDatabase, in_use: Iterable[str], kept: int) -> None:
    """Drops versions until at most `kept` are left, never one in use."""
    wanted = set(in_use)
    for name in ("items", "users"):
        versions = database.versions(name)
        others = [version for version in versions if version not in wanted]
        for version in others[: max(0, min(len(others), len(versions) - max(kept, 1)))]:
            database.drop_version(name, version)

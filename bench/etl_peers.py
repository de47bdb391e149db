"""The ETL's job in DuckDB and Polars: read CSV, validate, de-duplicate by event identity, order by user and time, write
Parquet partitioned by day.

    python bench/etl_peers.py duckdb|polars DATA_FOLDER OUT_FOLDER [THREADS]

Run it under `/usr/bin/time -v` for peak memory. Neither peer quarantines rows, keeps histories or syncs its files; what
they do is the part of our job that they can do. Needs `pip install duckdb polars`.
"""

import os
import shutil
import sys
import time

engine, data, out = sys.argv[1:4]
threads = int(sys.argv[4]) if len(sys.argv) > 4 else 2
shutil.rmtree(out, ignore_errors=True)
os.makedirs(out)
KINDS = ["view", "click", "watch", "cart", "purchase"]
TIME_MIN, TIME_MAX = 946_684_800, 4_102_444_800


def with_duckdb() -> None:
    import duckdb

    db = duckdb.connect()
    db.execute(f"SET threads={threads}; SET temp_directory='{out}/tmp'; SET memory_limit='4GB'")
    kinds = ", ".join(f"'{kind}'" for kind in KINDS)
    db.execute(f"""
        COPY (
            SELECT DISTINCT USER_ID AS user_id, ITEM_ID AS item_id, EVENT_TYPE AS event_type,
                   to_timestamp(TIMESTAMP) AS time, strftime(to_timestamp(TIMESTAMP), '%Y-%m-%d') AS day
            FROM read_csv('{data}/*.csv', header=true, columns={{'USER_ID': 'VARCHAR', 'ITEM_ID': 'VARCHAR',
                          'TIMESTAMP': 'BIGINT', 'EVENT_TYPE': 'VARCHAR'}}, ignore_errors=true)
            WHERE USER_ID IS NOT NULL AND ITEM_ID IS NOT NULL AND EVENT_TYPE IN ({kinds})
              AND TIMESTAMP BETWEEN {TIME_MIN} AND {TIME_MAX}
              AND length(USER_ID) BETWEEN 1 AND 256 AND length(ITEM_ID) BETWEEN 1 AND 256
            ORDER BY day, user_id, time
        ) TO '{out}/interactions' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (day))
    """)


def with_polars() -> None:
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    import polars as pl

    schema = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64, "EVENT_TYPE": pl.String}
    frame = (
        pl.scan_csv(f"{data}/*.csv", schema=schema, ignore_errors=True)
        .filter(
            pl.col("USER_ID").is_not_null() & pl.col("ITEM_ID").is_not_null()
            & pl.col("EVENT_TYPE").is_in(KINDS) & pl.col("TIMESTAMP").is_between(TIME_MIN, TIME_MAX)
            & (pl.col("USER_ID").str.len_bytes() <= 256) & (pl.col("ITEM_ID").str.len_bytes() <= 256)
        )
        .unique()
        .with_columns(time=pl.from_epoch("TIMESTAMP", time_unit="s"))
        .with_columns(day=pl.col("time").dt.strftime("%Y-%m-%d"))
        .sort("day", "USER_ID", "time")
        .collect()
    )
    for (day,), rows in frame.group_by(["day"], maintain_order=True):
        folder = f"{out}/interactions/day={day}"
        os.makedirs(folder)
        rows.drop("day").write_parquet(f"{folder}/part.parquet", compression="zstd", compression_level=1)


start = time.perf_counter()
{"duckdb": with_duckdb, "polars": with_polars}[engine]()
print(f"{engine}: {time.perf_counter() - start:.2f} s with {threads} threads")

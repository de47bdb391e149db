#!/usr/bin/env python3
"""Many generated rows through the ETL: rows/s, CPU seconds, peak memory; fails above the limit.

`make scale` runs 100 million rows (about 6 GB of CSV, as much scratch and output) under 4 GiB; CI runs 5 million. With --curve
the same rows also go through the local trainer and through the nightly job under local Spark, at each size, and a table is printed:

    python bench/scale.py --curve 1000000 10000000 100000000

Spark's memory is that of all its processes (proportional set size, sampled twice a second): the driver's JVM with the executor in it and the Python
workers. Its job trains distributed at every size. The limit there is 8 GiB. Needs the wheel and pyspark (`make test` installs them in .venv).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = os.environ.get("ANABRANCH_BIN", "target/release/anabranch")


def measured(command):
    """Runs a command; wall seconds, CPU seconds, peak resident bytes, standard output."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command} ended with {process.returncode}")
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out


def session_bytes(session):
    """Proportional set size of all processes of a session: what several share counts once."""
    total = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            stat = (process / "stat").read_text().rsplit(")", 1)[1].split()
            if int(stat[3]) == session:
                rollup = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
        except (OSError, IndexError):
            continue  # it ended meanwhile
    return total


def measured_session(command, environment):
    """Runs a command with its children; wall seconds, peak bytes of all of them, standard output."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True)
    peak, done = 0, threading.Event()

    def sample():
        nonlocal peak
        while not done.wait(0.5):
            peak = max(peak, session_bytes(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    out = process.stdout.read()
    code = process.wait()
    done.set()
    sampler.join()
    if code != 0:
        sys.exit(f"{command} ended with {code}")
    return time.monotonic() - begin, peak, out


def curve(sizes, parent, limit_gib, heap):
    """ETL and training at each size, locally and under Spark."""
    master = f"local[{os.cpu_count()}]"
    submit = (f"--master {master} --driver-memory {heap} --conf spark.ui.enabled=false --conf spark.driver.bindAddress=127.0.0.1 "
              "--conf spark.driver.host=127.0.0.1 --conf spark.driver.maxResultSize=0 pyspark-shell")
    print("| rows | local ETL s | peak GiB | local training s | peak GiB | Spark: ETL s | training s | peak GiB |\n|" + "---|" * 8)
    for rows in sizes:
        folder = Path(tempfile.mkdtemp(prefix="anabranch-scale-", dir=parent))
        try:
            subprocess.run([BINARY, "generate", "--rows", str(rows), "--out", folder / "raw"], check=True, stdout=subprocess.DEVNULL)
            home = [BINARY, "--json", "--home", folder / "home"]
            etl = measured([*home, "etl", "--data", folder / "raw"])
            train = measured([*home, "train", "--no-embeddings"])
            version = json.loads(train[3])["version"]
            # The rest may take an hour.
            print(f"{rows:,} rows locally: ETL {etl[0]:.1f} s, {etl[2] / 2**30:.2f} GiB; training {train[0]:.1f} s, {train[2] / 2**30:.2f} GiB",
                  file=sys.stderr, flush=True)
            shutil.rmtree(folder / "home")
            environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_SUBMIT_ARGS": submit, "SPARK_LOCAL_DIRS": str(folder / "spark")}
            command = [sys.executable, ROOT / "scripts" / "glue_job.py", "--raw", folder / "raw", "--lake", folder / "lake",
                       "--driver-interactions-max", "0", "--bulk", "false", "--embeddings", "false"]
            _, peak, out = measured_session([str(part) for part in command], environment)
            told = json.loads(out.splitlines()[-1])
        finally:
            shutil.rmtree(folder)
        seconds = told["seconds"]
        print(f"| {rows:,} | {etl[0]:.1f} | {etl[2] / 2**30:.2f} | {train[0]:.1f} | {train[2] / 2**30:.2f} | {seconds['etl']:.1f} | "
              f"{seconds['evaluate'] + seconds['train']:.1f} | {peak / 2**30:.2f} |", flush=True)
        if told["version"] != version:
            sys.exit(f"Spark's model {told['version']} is not the local trainer's {version}")
        if peak > limit_gib * 2**30:
            sys.exit(f"peak memory under Spark is above {limit_gib} GiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--curve", type=int, nargs="*", help="sizes in rows: ETL and training, locally and under Spark")
    parser.add_argument("--spark-limit-gib", type=float, default=8.0)
    parser.add_argument("--spark-heap", default="3g", help="heap of Spark's JVM")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    if arguments.curve:
        curve(arguments.curve, arguments.folder, arguments.spark_limit_gib, arguments.spark_heap)
        return
    folder = Path(tempfile.mkdtemp(prefix="anabranch-scale-", dir=arguments.folder))
    try:
        subprocess.run(
            [BINARY, "generate", "--rows", str(arguments.rows), "--out", folder / "raw"], check=True,
            stdout=subprocess.DEVNULL,
        )
        wall, cpu, peak, out = measured(
            [BINARY, "--json", "--home", folder / "home", "etl", "--data", folder / "raw"]
        )
        counts = json.loads(out)["interactions"]
    finally:
        shutil.rmtree(folder)
    balance = counts["clean"] + counts["duplicates"] + counts["quarantined"] + counts["filtered"]
    print(
        f"{arguments.rows:,} rows: {wall:.1f} s, {arguments.rows / wall:,.0f} rows/s, {cpu:.1f} CPU s, "
        f"peak {peak / 2**30:.2f} GiB (limit {arguments.limit_gib} GiB); read {counts['read']:,} = clean {counts['clean']:,} "
        f"+ duplicates {counts['duplicates']:,} + quarantined {counts['quarantined']:,} + filtered {counts['filtered']:,}"
    )
    if balance != counts["read"] or counts["read"] != arguments.rows:
        sys.exit("the books do not balance")
    if peak > arguments.limit_gib * 2**30:
        sys.exit("peak memory is above the limit")


if __name__ == "__main__":
    main()

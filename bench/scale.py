#!/usr/bin/env python3
"""Many generated rows through the ETL: rows/s, CPU seconds, peak memory; fails above the limit.

`make scale` runs 100 million rows (about 6 GB of CSV, as much scratch and output) under 4 GiB; CI runs 5 million.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
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

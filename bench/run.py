#!/usr/bin/env python3
"""Every figure that the docs quote, in one run, beside a peer or a limit of this machine. `make bench` runs it.

Contestants take turns, medians are printed, CPU seconds are counted: these machines are noisy. What is measured:
  etl       rows/s and peak memory beside DuckDB and Polars doing the same job (bench/etl_peers.py says which)
  train     seconds, 41 thousand items × 64 dimensions
  stream    events/s a core with durable state, per-event lists over the same items
  latency   from receipt to the list being readable, at 1,000 events/s, beside this disk's fdatasync
"""

import argparse
import calendar
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from scale import BINARY, measured

HERE = Path(__file__).resolve().parent
REPLAY_DAYS = 3


def anabranch(home, *arguments):
    return [BINARY, "--json", "--home", str(home), *map(str, arguments)]


def table(title, head, rows, note=""):
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if note:
        print(f"\n{note}")
    sys.stdout.flush()


def bench_etl(folder, rows, rounds):
    raw = folder / "etl-raw"
    subprocess.run([BINARY, "generate", "--rows", str(rows), "--out", raw], check=True, stdout=subprocess.DEVNULL)
    contestants = {
        "anabranch": lambda n: anabranch(folder / f"etl-home-{n}", "etl", "--data", raw),
        "duckdb": lambda n: [sys.executable, HERE / "etl_peers.py", "duckdb", raw, folder / f"duckdb-{n}", "2"],
        "polars": lambda n: [sys.executable, HERE / "etl_peers.py", "polars", raw, folder / f"polars-{n}", "2"],
    }
    figures = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, command in contestants.items():
            figures[name].append(measured([str(part) for part in command(turn)])[:3])
            for leftover in folder.glob(f"*-{turn}"):
                shutil.rmtree(leftover, ignore_errors=True)
    medians = {name: [statistics.median(column) for column in zip(*runs)] for name, runs in figures.items()}
    ours, best = medians["anabranch"][0], min(medians[name][0] for name in ("duckdb", "polars"))
    table(
        f"ETL of {rows:,} CSV rows (median of {rounds}, taking turns)",
        ["", "wall s", "rows/s", "CPU s", "peak MiB"],
        [
            [name, f"{wall:.1f}", f"{rows / wall:,.0f}", f"{cpu:.1f}", f"{peak / 2**20:,.0f}"]
            for name, (wall, cpu, peak) in medians.items()
        ],
        f"Ours takes {ours / best:.2f} × the faster peer's time (goal: at most 1.5).",
    )
    shutil.rmtree(raw)


def model_home(folder, rows):
    """41 thousand items, twice as many users; the last days wait to be replayed."""
    raw, home = folder / "model-raw", folder / "model-home"
    subprocess.run([BINARY, "generate", "--rows", str(rows), "--out", raw], check=True, stdout=subprocess.DEVNULL)
    report = json.loads(measured(anabranch(home, "etl", "--data", raw))[3])
    end_ms = (calendar.timegm(time.strptime(report["last_day"], "%Y-%m-%d")) + 86_400) * 1000
    cut_over_ms = end_ms - REPLAY_DAYS * 86_400_000
    measured(anabranch(home, "etl", "--data", raw, "--until", cut_over_ms))
    return raw, home, cut_over_ms


def bench_train(home):
    wall, cpu, peak, out = measured(anabranch(home, "train", "--no-evaluate", "--no-embeddings"))
    outcome = json.loads(out)
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in outcome["timings"])
    table(
        "Training",
        ["users", "items", "entries", "wall s", "CPU s", "peak MiB"],
        [[f"{outcome['users']:,}", f"{outcome['items']:,}", f"{outcome['entries']:,}", f"{wall:.1f}", f"{cpu:.1f}",
          f"{peak / 2**20:,.0f}"]],
        f"Phases: {phases}.",
    )


def bench_stream(home, raw, cut_over_ms):
    # The last days, into a state of its own each time.
    rows = []
    subprocess.run(anabranch(home, "replay", "--data", raw, "--from", "2100-01-01", "--run", "warm"), check=True,
                   stdout=subprocess.DEVNULL)
    for turn in range(3):
        state = home / "runs" / f"turn{turn}"
        shutil.copytree(home / "runs" / "warm", state)
        _, idle_cpu, _, _ = measured(
            anabranch(home, "replay", "--data", raw, "--from", "2100-01-01", "--run", f"turn{turn}"))
        wall, cpu, peak, out = measured(
            anabranch(home, "replay", "--data", raw, "--from", cut_over_ms, "--run", f"turn{turn}"))
        replayed = json.loads(out)
        events = replayed["appended"]
        if replayed["counts"]["delivered"] < 0.95 * events:
            sys.exit(f"most events must make a list, or this measures nothing: {replayed['counts']}")
        # Reading the raw files is not the stream's work: a replay of nothing costs the same.
        rows.append((events, events / replayed["seconds"], events / (cpu - idle_cpu), peak))
        shutil.rmtree(state)
    events, per_second, per_core, peak = (statistics.median(column) for column in zip(*rows))
    table(
        "Stream: log → join → exact top-20 → delivered objects, durable, per-event lists",
        ["events", "events/s", "events/s/core", "peak MiB"],
        [[f"{events:,.0f}", f"{per_second:,.0f}", f"{per_core:,.0f}", f"{peak / 2**20:,.0f}"]],
        "Goal: at least 5,000 events/s/core (events over CPU seconds, without reading the raw files).",
    )


def fdatasync_p99_ms(folder):
    times = []
    with open(folder / "sync-probe", "wb") as probe:
        for _ in range(500):
            probe.write(b"x" * 4096)
            probe.flush()
            begin = time.perf_counter()
            os.fdatasync(probe.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    times.sort()
    return statistics.median(times), times[int(len(times) * 0.99)]


def bench_latency(folder, home, seconds):
    before = fdatasync_p99_ms(folder)
    process = subprocess.Popen(
        [BINARY, "--home", str(home), "stream", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().split(" at ")[-1].strip()
    threading.Thread(target=lambda: [None for _ in process.stdout], daemon=True).start()
    chance = random.Random(7)
    now = int(time.time() * 1000)
    sent = 0
    begin = time.monotonic()
    # Ten events a request, a hundred requests a second, on one connection at a time.
    import http.client

    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    while (elapsed := time.monotonic() - begin) < seconds:
        due = int(elapsed * 100)
        if sent >= due:
            time.sleep(0.001)
            continue
        events = [
            {"userId": f"user-{chance.randrange(80_000)}", "itemId": f"item-{chance.randrange(41_000)}",
             "eventType": "view", "sentAt": now + sent * 10 + i}
            for i in range(10)
        ]
        connection.request("POST", "/events", json.dumps(events))
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            sys.exit(f"the stream answered {answer.status}")
        sent += 1
    status = json.loads(urllib.request.urlopen(url + "/status").read())
    process.terminate()
    process.wait()
    after = fdatasync_p99_ms(folder)
    p99_sync = max(before[1], after[1])
    latency = status["latencyUs"]
    goal = 3 * p99_sync + 5
    table(
        "From HTTP receipt to the list being readable, at 1,000 events/s",
        ["events", "p50 ms", "p99 ms", "fdatasync p50 ms", "fdatasync p99 ms", "goal: p99 under ms"],
        [[f"{sent * 10:,}", f"{latency['p50'] / 1000:.2f}", f"{latency['p99'] / 1000:.2f}", f"{before[0]:.2f}",
          f"{p99_sync:.2f}", f"{goal:.1f}"]],
        f"Sent {sent * 10 / seconds:,.0f} events/s for {seconds} s; the goal is 3 × this disk's fdatasync p99 + 5 ms.",
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the ETL bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20, help="length of the latency bench")
    parser.add_argument("--only", choices=["etl", "train", "stream", "latency"], nargs="*")
    arguments = parser.parse_args()
    wanted = set(arguments.only or ["etl", "train", "stream", "latency"])
    folder = Path(tempfile.mkdtemp(prefix="anabranch-bench-"))
    print(f"command: make bench (bench/run.py); {os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    try:
        if "etl" in wanted:
            bench_etl(folder, arguments.rows, arguments.rounds)
        if wanted & {"train", "stream", "latency"}:
            raw, home, cut_over_ms = model_home(folder, 4_100_000)
            bench_train(home)
            if "stream" in wanted:
                bench_stream(home, raw, cut_over_ms)
            if "latency" in wanted:
                bench_latency(folder, home, arguments.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

"""SIGKILL at random moments of a replay, while a reader reads all along: every list once, the same bytes as undisturbed.

20 kills in `make test`, 200 in `make soak` (ANABRANCH_SOAK_KILLS). On Complete Journey where it is there, else on the
built-in shop. The seed is printed; ANABRANCH_SOAK_SEED repeats a run.
"""

import collections
import json
import os
import random
import shutil
import subprocess
import threading
import time

from conftest import environment
from journeys import Journey, history_bytes, lines_of, run

KILLS = int(os.environ.get("ANABRANCH_SOAK_KILLS", "20"))
SEED = int(os.environ.get("ANABRANCH_SOAK_SEED", str(random.SystemRandom().randrange(10**9))))


class Reader(threading.Thread):
    """Lists and reads the output all along; remembers the first id that it saw twice."""

    def __init__(self, delivered):
        super().__init__(daemon=True)
        self.folder = delivered / "recommendations"
        self.seen_objects = set()
        self.ids = set()
        self.fault = None
        self.rounds = 0
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set() and self.fault is None:
            self.read_once()

    def read_once(self):
        for path in sorted(self.folder.rglob("*.jsonl.zst")) if self.folder.exists() else []:
            if path in self.seen_objects:
                continue
            self.seen_objects.add(path)
            for line in lines_of(path):
                record = json.loads(line)["recommendationId"]
                if record in self.ids:
                    self.fault = f"{record} a second time, in {path}"
                    return
                self.ids.add(record)
        self.rounds += 1


def delivered_lines(home):
    """The multiset of (id, bytes) over all delivered objects."""
    lines = collections.Counter()
    for path in (home / "delivered" / "recommendations").rglob("*.jsonl.zst"):
        for line in lines_of(path):
            lines[(json.loads(line)["recommendationId"], line)] += 1
    return lines


def test_kill_nine(tmp_path):
    journey = Journey.prepare(tmp_path / "base")
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    shutil.copytree(journey.home, calm)
    shutil.copytree(journey.home, wild)

    begin = time.monotonic()
    run(journey.replay(calm))
    undisturbed_seconds = time.monotonic() - begin
    expected = delivered_lines(calm)
    assert expected and max(expected.values()) == 1

    print(f"ANABRANCH_SOAK_SEED={SEED}, {KILLS} kills, undisturbed {undisturbed_seconds:.1f} s, {len(expected)} lists")
    chance = random.Random(SEED)
    reader = Reader(wild / "delivered")
    reader.start()
    kills = refused = ended = 0
    while kills < KILLS:
        # Fresh trouble once the replay is through: begin again on a new copy.
        process = subprocess.Popen(
            journey.replay(wild), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        # Most kills strike while it works; some strike the start-up (recovery) itself.
        time.sleep(chance.uniform(0.02, 0.1 + undisturbed_seconds * 2 / max(KILLS, 1) + 0.4))
        if chance.random() < 0.3 and process.poll() is None:
            second = subprocess.run(journey.replay(wild), env=environment(), capture_output=True, text=True)
            if process.poll() is None and second.returncode != 0:
                assert second.returncode == 69, second.stderr
                assert "in use by another process" in second.stderr
                refused += 1
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read().decode()
            ended += 1
            reader.stopping.set()
            reader.join()
            assert reader.fault is None, reader.fault
            assert delivered_lines(wild) == expected
            shutil.rmtree(wild)
            shutil.copytree(journey.home, wild)
            reader = Reader(wild / "delivered")
            reader.start()
            continue
        process.kill()
        process.wait()
        kills += 1
    run(journey.replay(wild))
    reader.stopping.set()
    reader.join()
    assert reader.fault is None, reader.fault
    reader.read_once()
    assert reader.fault is None, reader.fault
    print(f"{kills} kills, {refused} second processes refused, {ended} replays ended by themselves, {reader.rounds} reads")
    assert refused > 0 or KILLS < 10
    assert delivered_lines(wild) == expected
    assert history_bytes(wild, tmp_path / "wild.backup") == history_bytes(calm, tmp_path / "calm.backup")

"""Acknowledged means synced, seen from outside: a preloaded shim logs the order of arrivals, journal writes, syncs and
answers, and breaks syncs and the sink's disk on demand."""

import json
import secrets
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import wait_until

SOURCE = Path(__file__).parent / "shim" / "syncwatch.c"


@dataclass
class Watched:
    """A home whose streams run under the shim."""

    home: object
    library: Path
    log: Path
    control: Path

    def start(self, **env):
        return self.home.start(
            LD_PRELOAD=str(self.library),
            SYNCWATCH_LOG=str(self.log),
            SYNCWATCH_STATE=str(self.home.state.resolve()),
            SYNCWATCH_SINK=str(self.home.delivered.resolve()),
            SYNCWATCH_CONTROL=str(self.control),
            **env,
        )

    def tell(self, what):
        """Switches a fault on; "" switches all off. Replaced as a whole, so it is never read half-written."""
        temporary = self.control.with_suffix(".tmp")
        temporary.write_text(what)
        temporary.rename(self.control)

    def lines(self):
        return [line.split(" ", 2) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    library = tmp_path_factory.mktemp("shim") / "syncwatch.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def watched(home, shim, tmp_path):
    home.delivered.mkdir(exist_ok=True)
    log = tmp_path / "calls.log"
    log.touch()
    return Watched(home, shim, log, tmp_path / "control")


def new_mark():
    return f"mark:{secrets.token_hex(8)}"


def click(mark, user="watched"):
    return json.dumps(
        {"userId": user, "itemId": "item-1", "eventType": "view", "eventId": mark, "sentAt": int(time.time() * 1000)}
    )


def places(lines, *wanted):
    return [place for place, line in enumerate(lines) if line[: len(wanted)] == list(wanted)]


def assert_synced_before_answer(lines, mark):
    """recv ≺ journal write ≺ begin of a sync ≺ its success ≺ the answer on the same connection."""
    arrivals = [place for place, line in enumerate(lines) if line[0] == "recv" and line[2] == mark]
    assert len(arrivals) == 1, f"{mark} arrived {len(arrivals)} times"
    connection = lines[arrivals[0]][1]
    answer = next(place for place in places(lines, "send", connection) if place > arrivals[0])
    assert lines[answer][2] == "200"
    written = [
        place for place, line in enumerate(lines) if line[0] == "write" and line[2] == mark and place > arrivals[0]
    ]
    assert written, f"{mark} never reached the journal"
    journal = lines[written[0]][1]
    begun = [place for place in places(lines, "begin", journal) if written[0] < place < answer]
    assert begun, f"{mark}: no sync began between its write and its answer"
    done = [place for place in places(lines, "synced", journal) if begun[0] < place < answer]
    assert done, f"{mark}: no sync ended between its write and its answer"


def test_the_journal_is_synced_between_arrival_and_answer(watched):
    stream = watched.start()
    marks = [new_mark() for _ in range(20)]
    for mark in marks:
        assert stream.ask("/events", click(mark)).status == 200
    # Requests that wait together share a sync; the order holds for each of them.
    together = [new_mark() for _ in range(48)]
    threads = [
        threading.Thread(target=lambda part=part: [stream.ask("/events", click(mark)) for mark in part])
        for part in (together[start::8] for start in range(8))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.stop() == 0, stream.told()
    lines = watched.lines()
    for mark in marks + together:
        assert_synced_before_answer(lines, mark)


def test_no_answer_leaves_while_the_sync_hangs(watched):
    stream = watched.start()

    def is_quiet():
        before = len(watched.lines())
        time.sleep(1.0)
        return len(watched.lines()) == before

    # A sync of the start that hung would hold the journal, and the event could not even be written.
    wait_until("a journal at rest", is_quiet)
    watched.tell("block")
    mark = new_mark()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(stream.ask("/events", click(mark), timeout=60)))
    thread.start()
    wait_until("the journal write", lambda: any(line[0] == "write" and line[2] == mark for line in watched.lines()))
    time.sleep(1.0)
    assert not answers, "an acknowledgement left before its sync"
    lines = watched.lines()
    arrival = next(place for place, line in enumerate(lines) if line[0] == "recv" and line[2] == mark)
    connection = lines[arrival][1]
    assert not [place for place in places(lines, "send", connection) if place > arrival]
    watched.tell("")
    thread.join(timeout=60)
    assert answers and answers[0].status == 200
    assert_synced_before_answer(watched.lines(), mark)
    assert stream.stop() == 0, stream.told()


def test_a_failed_sync_is_never_acknowledged(watched):
    stream = watched.start()
    before = new_mark()
    assert stream.ask("/events", click(before)).status == 200
    stream.wait_committed()
    watched.tell("fail")
    mark = new_mark()
    try:
        status = stream.ask("/events", click(mark)).status
    except OSError:
        status = None  # it ended before it answered, which acknowledges nothing either
    assert status is None or status >= 500
    lines = watched.lines()
    arrivals = [place for place, line in enumerate(lines) if line[0] == "recv" and line[2] == mark]
    connection = lines[arrivals[0]][1]
    assert "200" not in [lines[place][2] for place in places(lines, "send", connection) if place > arrivals[0]]
    assert any(line[0] == "unsynced" for line in lines)
    # A log that failed to sync is not trusted again by the same process: it ends and says why.
    wait_until("the stream ends by itself", lambda: stream.process.poll() is not None, 60)
    assert stream.process.returncode != 0
    assert "log" in stream.told() or "storage" in stream.told(), stream.told()
    # The next process goes on with everything that was acknowledged; sending the other again is safe.
    watched.tell("")
    stream = watched.start()
    assert stream.ask("/events", click(mark)).status == 200
    stream.wait_committed()
    assert stream.stop() == 0, stream.told()
    ids = Counter(line["eventId"] for line in watched.home.lists())
    assert (ids[before], ids[mark]) == (1, 1)


def test_a_full_sink_stops_input_and_loses_nothing(watched):
    stream = watched.start()
    taken = []

    def put():
        mark = new_mark()
        answer = stream.ask("/events", click(mark, user=f"user-{len(taken)}"))
        if answer.status == 200:
            taken.append(mark)
        return answer

    for _ in range(10):
        assert put().status == 200
    watched.tell("full")
    for _ in range(10):
        put()
    health = wait_until(
        "input stops", lambda: (answer := stream.ask("/healthz")).status == 503 and answer.json(), 60
    )
    assert health["status"] == "blocked"
    assert "space" in health["reason"].lower(), health
    refused = put()
    assert refused.status == 503
    assert refused.json()["code"] == "blocked"
    assert "space" in refused.json()["message"].lower()
    # What it holds is still served.
    assert stream.ask("/recommendations/user-0").status == 200
    watched.tell("")
    wait_until("input resumes", lambda: stream.ask("/healthz").status == 200, 60)
    for _ in range(10):
        assert put().status == 200
    stream.wait_committed()
    assert stream.stop() == 0, stream.told()
    ids = Counter(line["eventId"] for line in watched.home.lists() if line["eventId"].startswith("mark:"))
    assert ids == Counter(taken), "every acknowledged event was delivered, once"

"""The whole pipeline on a grocery chain's year: books that balance, lists for exactly the right events."""

import collections
import json

import pyarrow.parquet
import pytest

from journeys import DATA, Journey, anabranch, lines_of, run

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")


def test_the_last_month_as_a_stream(tmp_path):
    journey = Journey.prepare(tmp_path / "base")
    rows = pyarrow.parquet.read_metadata(DATA / "transactions.parquet").num_rows
    report = json.loads((journey.home / "lake" / "report.json").read_text())
    counts = report["interactions"]
    assert counts["read"] == rows
    assert counts["read"] == sum(counts[kind] for kind in ("clean", "duplicates", "quarantined", "filtered"))
    assert counts["quarantined"] == 0

    # A known household's first list reflects its batch past: it is not what a stranger gets.
    replayed = json.loads(run(journey.replay(journey.home)))
    streamed = replayed["counts"]
    assert streamed["accepted"] == streamed["delivered"] + streamed["duplicate"] + streamed["late"]
    assert streamed["accepted"] == replayed["events"] == counts["filtered"]
    assert streamed["late"] == streamed["rejected"] == 0

    delivered = collections.Counter()
    first_lists = {}
    for path in sorted((journey.home / "delivered" / "recommendations").rglob("*.jsonl.zst")):
        for line in lines_of(path):
            record = json.loads(line)
            delivered[record["eventId"], record["userId"]] += 1
            first_lists.setdefault(record["userId"], [item["itemId"] for item in record["items"]])
    assert sum(delivered.values()) == streamed["delivered"]
    assert max(delivered.values()) == 1

    # The batch arm names the same events: an ETL over everything, its December read back.
    whole = tmp_path / "whole"
    run(anabranch(whole, "etl", *journey.data))
    expected = set()
    for path in sorted((whole / "lake" / "interactions").glob("day=2017-12-*/*.parquet")) + sorted(
        (whole / "lake" / "interactions").glob("day=2018-*/*.parquet")
    ):
        table = pyarrow.parquet.read_table(path, columns=["event_id", "user_id", "time_ms"]).to_pydict()
        for event, user, time in zip(table["event_id"], table["user_id"], table["time_ms"]):
            if time.timestamp() > 1_512_086_400:
                expected.add((event, user))
    assert set(delivered) == expected

    stranger = json.loads(run(anabranch(journey.home, "--json", "recommend", "--user", "nobody-knows-me")))
    popular = [item["itemId"] for item in stranger["items"]]
    known = [user for user, items in first_lists.items() if items != popular]
    assert len(known) > 0.99 * len(first_lists)

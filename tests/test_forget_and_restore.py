"""Forget somebody while the stream runs, replay everything: nothing returns. And a state restored from its backup."""

import json
import shutil
import time

import boto3
import pyarrow.parquet

from journeys import anabranch, lines_of, run


def somebody(home):
    """A user of the dataset with sessions, and what the stream knows of them."""
    users = sorted((home / "lake" / "users").glob("*.parquet"))
    counts = {}
    for path in users:
        table = pyarrow.parquet.read_table(path, columns=["user_id", "events"]).to_pydict()
        counts.update(zip(table["user_id"], table["events"]))
    return sorted(user for user, events in counts.items() if 20 <= events <= 60)[0]


def rows_of(home, user):
    return sum(
        pyarrow.parquet.read_table(path, columns=["user_id"]).column("user_id").to_pylist().count(user)
        for path in (home / "lake" / "interactions").glob("*/*.parquet")
    )


def lists_of(home, user):
    return sum(
        json.loads(line).get("userId") == user
        for path in (home / "delivered" / "recommendations").rglob("*.jsonl.zst")
        for line in lines_of(path)
    )


def test_forget_then_replay_everything(home):
    user = somebody(home.path)
    stream = home.start()
    remembered = stream.ask(f"/history/{user}").json()
    assert remembered["entries"] and remembered["sessions"]
    sessions = [session["sessionId"] for session in remembered["sessions"]]
    past = [
        {"userId": user, "itemId": entry["itemId"], "eventType": entry["eventType"], "sentAt": entry["timeMs"]}
        for entry in remembered["entries"]
    ]
    bad = {"userId": user, "itemId": "x", "eventType": "ogle", "sentAt": past[0]["sentAt"]}
    # A dead letter that names them: Kinesis's door takes any bytes.
    kinesis = boto3.client("kinesis", endpoint_url=stream.url, region_name="us-east-1", aws_access_key_id="a",
                           aws_secret_access_key="b")
    kinesis.put_record(StreamName="clicks", PartitionKey=user, Data=json.dumps(bad))
    stream.wait_committed()
    assert rows_of(home.path, user) > 0

    told = json.loads(run(anabranch(home.path, "--json", "forget", "--user", user)))
    assert told["state"]["histories"] >= 1 and told["state"]["deadLetters"] == 1
    assert told["lake"]["interactions"] > 0 and told["vectors"] == 1
    lists_before = lists_of(home.path, user)

    # Their whole past again, live ...
    assert stream.ask("/events", json.dumps(past)).status == 200
    for session in sessions:
        again = [{**event, "userId": None, "sessionId": session} for event in past]
        assert stream.ask("/events", json.dumps(again)).status == 200
    stream.wait_committed()
    assert stream.ask(f"/history/{user}").json()["entries"] == []
    for session in sessions:
        assert stream.ask(f"/history/{session}?kind=session").json()["entries"] == []
    assert lists_of(home.path, user) == lists_before, "a forgotten past makes no list"
    assert stream.stop() == 0

    # ... from the raw files through the ETL, and a warm start from the new dataset.
    run(anabranch(home.path, "generate", "--out", home.path / "raw"))
    run(anabranch(home.path, "etl", "--data", home.path / "raw"))
    assert rows_of(home.path, user) == 0
    stream = home.start()
    assert stream.ask(f"/history/{user}").json()["entries"] == []
    # A dead letter, a quarantined row or a file name that still names them would be a leak.
    for folder in ("lake", "delivered/dead-letters"):
        for path in (home.path / folder).rglob("*"):
            if path.is_file() and path.suffix == ".json":
                assert user not in path.read_text(), path
    for path in (home.path / "delivered" / "dead-letters").rglob("*.zst"):
        assert not any(user in line.decode() for line in lines_of(path)), path
    # They are free to come back.
    fresh = {**past[0], "sentAt": int(time.time() * 1000)}
    assert stream.ask("/events", json.dumps(fresh)).status == 200
    stream.wait_committed()
    assert len(stream.ask(f"/history/{user}").json()["entries"]) == 1


def test_a_restored_backup_goes_on_after_what_was_delivered(home, tmp_path):
    stream = home.start()
    event = {"userId": "restored", "eventType": "view", "sentAt": 1_709_000_000_000}
    first = [{**event, "itemId": f"item-{i}", "eventId": f"first-{i}"} for i in range(40)]
    later = [{**event, "itemId": f"item-{i}", "eventId": f"later-{i}"} for i in range(40, 60)]
    assert stream.ask("/events", json.dumps(first)).status == 200
    stream.wait_committed()
    backup = tmp_path / "state.backup"
    run(anabranch(home.path, "backup", "--out", backup))
    assert stream.ask("/events", json.dumps(later)).status == 200
    stream.wait_committed()
    newest = max(shard["newest"] for shard in stream.status()["shards"])
    assert stream.stop() == 0

    shutil.rmtree(home.state)
    run(anabranch(home.path, "restore", "--from", backup))
    stream = home.start()
    assert len(stream.ask("/history/restored").json()["entries"]) == 40
    # Repeats of what the backup knows are repeats still; numbers go on after everything that was delivered.
    assert stream.ask("/events", json.dumps(first)).status == 200
    assert stream.ask("/events", json.dumps({**event, "itemId": "item-99", "eventId": "new"})).status == 200
    stream.wait_committed()
    assert max(shard["newest"] for shard in stream.status()["shards"]) > newest
    ids = [
        json.loads(line)["eventId"]
        for path in (home.path / "delivered" / "recommendations").rglob("*.jsonl.zst")
        for line in lines_of(path)
        if json.loads(line).get("userId") == "restored"
    ]
    assert sorted(ids) == sorted([e["eventId"] for e in first + later] + ["new"])
    assert stream.stop() == 0

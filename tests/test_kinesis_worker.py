"""The worker on Kinesis, from the command line, against real clients on one side and stand-ins of AWS on the other.

ministack is DynamoDB and S3, kinesalite a Kinesis that splits and merges. Whatever is killed, started a second
time or resharded: every event is in exactly one delivered list, and the objects of a shard form one chain.
"""

import asyncio
import json
import os
import secrets
import subprocess
import time
from collections import Counter
from unittest.mock import patch

import boto3
import duckdb
import pyarrow.parquet as pq
import xxhash
from botocore.config import Config

from conftest import decompress, environment, wait_until
from journeys import anabranch, run
from test_notify import SECRET, Receiver

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
TRAILER_BYTES = 1024
USERS = 25


class Cloud:
    """Endpoints, clients, and one stream with its tables and bucket."""

    def __init__(self, url, kinesis_url, shards):
        self.url, self.kinesis_url = url, kinesis_url
        quick = Config(retries={"max_attempts": 3})
        self.s3 = boto3.client("s3", endpoint_url=url, config=quick, **KEYS)
        self.dynamo = boto3.client("dynamodb", endpoint_url=url, config=quick, **KEYS)
        self.kinesis = boto3.client("kinesis", endpoint_url=kinesis_url, config=quick, **KEYS)
        tag = secrets.token_hex(4)
        self.stream, self.table, self.leases = f"clicks-{tag}", f"state-{tag}", f"leases-{tag}"
        self.bucket = f"lists-{tag}"
        self.s3.create_bucket(Bucket=self.bucket)
        for name, key, kind in ((self.table, "k", "B"), (self.leases, "leaseKey", "S")):
            self.dynamo.create_table(
                TableName=name,
                KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind}],
                BillingMode="PAY_PER_REQUEST",
            )
        self.kinesis.create_stream(StreamName=self.stream, ShardCount=shards)
        self.wait_active()

    def wait_active(self):
        def is_active():
            answer = self.kinesis.describe_stream_summary(StreamName=self.stream)["StreamDescriptionSummary"]
            return answer["StreamStatus"] == "ACTIVE"

        wait_until("the stream is active", is_active, 30)

    def settings(self, lake):
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL_KINESIS": self.kinesis_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "ANABRANCH__PLACES__LAKE": str(lake),
            "ANABRANCH__PLACES__DELIVERED": f"s3://{self.bucket}/live",
            "ANABRANCH__SOURCE__KIND": "kinesis",
            "ANABRANCH__SOURCE__STREAM": self.stream,
            "ANABRANCH__SOURCE__TABLE": self.table,
            "ANABRANCH__SOURCE__LEASE_TABLE": self.leases,
            "ANABRANCH__SOURCE__ERASURE_KEY": "0f" * 32,
            "ANABRANCH__SOURCE__FAILOVER_MS": "2000",
            "ANABRANCH__SOURCE__LIST_SHARDS_EVERY_MS": "1000",
            "ANABRANCH__STREAM__CUT_AFTER_MS": "300",
            "ANABRANCH__STREAM__LIST_LENGTH": "5",
        }

    def objects(self):
        """Trailer and lists of every delivered object, each checked against its trailer."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="live/recommendations/")
        for key in (entry["Key"] for page in pages for entry in page.get("Contents", [])):
            data = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            if key.endswith(".parquet"):
                yield read_parquet(data)
                continue
            trailer, lines = json.loads(data[-TRAILER_BYTES + 8 :]), decompress(data)
            assert xxhash.xxh3_128_hexdigest(lines) == trailer["digest"], key
            yield trailer, [json.loads(line) for line in lines.splitlines()]

    def lists(self):
        """Every delivered list; the chains of objects are checked too."""
        lists, reach = [], {}
        for trailer, lines in self.objects():
            counts = trailer["counts"]
            outcomes = counts["delivered"] + counts["superseded"] + counts["duplicate"] + counts["late"]
            assert counts["accepted"] == outcomes and counts["delivered"] == len(lines), counts
            reach.setdefault(trailer["shard"], []).append((trailer["after"], trailer["last"]))
            lists += lines
        for shard, ranges in reach.items():
            by_start = dict(ranges)
            assert len(by_start) == len(ranges), f"shard {shard}: two objects after one place"
            at, walked = "0", 0
            while at in by_start:
                at, walked = by_start[at], walked + 1
            assert walked == len(ranges), f"shard {shard}: a gap or an overlap after {at}"
        return lists

    def wait_delivered(self, ids, seconds=90):
        wanted = set(ids)

        left = set(wanted)

        def is_delivered():
            left.intersection_update(wanted - {entry["eventId"] for entry in self.lists()})
            return not left

        try:
            wait_until("every event is delivered", is_delivered, seconds)
        finally:
            print(f"{len(left)} of {len(wanted)} events are not delivered: {sorted(left)[:20]}")
        times = Counter(entry["eventId"] for entry in self.lists())
        assert set(times) == wanted
        assert set(times.values()) == {1}, [key for key, count in times.items() if count > 1][:5]


def read_parquet(data):
    """What a reader that knows nothing of us sees, and the trailer in the footer."""
    import io

    file = pq.ParquetFile(io.BytesIO(data))
    trailer = json.loads(file.schema_arrow.metadata[b"anabranch.trailer"])
    lists = [
        {key: value for key, value in row.items() if value is not None} for row in file.read().to_pylist()
    ]
    return trailer, lists


def event(run_id, number):
    return {
        "userId": f"{run_id}-user-{number % USERS}",
        "itemId": f"item-{number % 97}",
        "eventType": ["view", "cart", "purchase"][number % 3],
        "eventId": f"{run_id}-{number}",
        "sentAt": int(time.time() * 1000),
    }


def put_by_boto3(cloud, events):
    """As a careful producer does: what failed inside a good answer is put again."""
    records = [{"Data": json.dumps(value).encode(), "PartitionKey": value["userId"]} for value in events]
    for start in range(0, len(records), 400):
        left = records[start : start + 400]
        while left:
            answer = cloud.kinesis.put_records(StreamName=cloud.stream, Records=left)
            left = [record for record, told in zip(left, answer["Records"]) if "ErrorCode" in told]


def put_by_kpl(cloud, events):
    """The aggregates of the Kinesis Producer Library, made by AWS's own library for Python."""
    from aws_kinesis_agg.aggregator import RecordAggregator

    aggregator = RecordAggregator(max_size=4_000)
    sealed = []
    aggregator.on_record_complete(sealed.append)
    for value in events:
        aggregator.add_user_record(value["userId"], json.dumps(value).encode())
    sealed.append(aggregator.clear_and_get())
    for record in filter(None, sealed):
        partition_key, _, data = record.get_contents()
        cloud.kinesis.put_record(StreamName=cloud.stream, PartitionKey=partition_key, Data=bytes(data))


def put_by_async_producer(cloud, events):
    from kinesis import Producer, StringProcessor

    async def put():
        options = {"endpoint_url": cloud.kinesis_url, "region_name": "us-east-1", "processor": StringProcessor()}
        async with Producer(stream_name=cloud.stream, **options) as producer:
            for value in events:
                await producer.put(json.dumps(value))
            await producer.flush()

    with patch.dict(os.environ, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test"):
        asyncio.run(put())


def test_real_producers_two_workers_and_sigkill(ministack, kinesalite, workers):
    make, lake = workers
    cloud = Cloud(ministack, kinesalite, shards=3)
    settings = cloud.settings(lake)
    first_home, second_home = make("first"), make("second")
    first = first_home.start(**settings)
    run_id = secrets.token_hex(3)
    events = [event(run_id, number) for number in range(900)]

    put_by_boto3(cloud, events[:200])
    put_by_kpl(cloud, events[200:300])
    wait_until("something is delivered", lambda: len(cloud.lists()) > 50, 60)
    first.kill()
    put_by_async_producer(cloud, events[300:400])
    put_by_kpl(cloud, events[400:500])
    # A second worker meanwhile; then the first again, on the same home.
    second = second_home.start(**settings)
    put_by_boto3(cloud, events[500:700])
    first = first_home.start(**settings)

    def held(worker):
        return {shard["shardId"] for shard in worker.status()["shards"]}

    wait_until("the shards are shared", lambda: len(held(first) | held(second)) == 3 and held(first) and held(second), 60)
    put_by_kpl(cloud, events[700:800])
    second.kill()
    put_by_boto3(cloud, events[800:])
    cloud.wait_delivered([value["eventId"] for value in events])

    # Questions are answered from the table, whoever joined the events.
    user = events[0]["userId"]
    expected = sum(value["userId"] == user for value in events)
    answer = first.ask(f"/history/{user}").json()
    assert len(answer["entries"]) == expected
    assert first.ask(f"/recommendations/{user}?n=5").json()["historyEvents"] == expected
    by_command = json.loads(run(anabranch(first_home.path, "--json", "history", "--user", user), **settings))
    assert by_command == answer
    status = json.loads(run(anabranch(first_home.path, "--json", "status"), **settings))
    assert cloud.stream in status["stream"]["source"] and status["status"] == "ok"
    assert "anabranch_iterator_age_seconds" in first.ask("/metrics").body.decode()

    # What belongs to the embedded log says where it is done instead.
    refused = first.ask("/events", body=json.dumps(events[0]))
    assert refused.status == 409 and cloud.stream in refused.json()["message"]
    for command in (["replay", "--data", "x"], ["backup", "--out", str(first_home.path / "b")], ["recommend", "--all"]):
        done = subprocess.run(
            anabranch(first_home.path, *command), env=environment(**settings), capture_output=True, text=True, check=False
        )
        assert done.returncode == 65 and "Kinesis" in done.stderr, (command, done.stderr)

    # Forgotten is forgotten, here and for whatever of theirs the stream still holds.
    run(anabranch(first_home.path, "forget", "--user", user), **settings)
    assert first.ask(f"/history/{user}").json()["entries"] == []
    assert first.stop() == 0, first.told()
    first = first_home.start(**settings)
    put_by_boto3(cloud, [event(run_id, 901)])
    cloud.wait_delivered([value["eventId"] for value in events] + [f"{run_id}-901"])
    assert first.ask(f"/history/{user}").json()["entries"] == []


def test_two_workers_send_each_notification_once(ministack, kinesalite, workers, tmp_path):
    """A signed webhook from one of two workers; the other takes over when it is killed.

    What was on its way when the sender died goes out again under the same id: its receipt was never written.
    """
    make, lake = workers
    cloud = Cloud(ministack, kinesalite, shards=2)
    outbox = f"{cloud.table}-outbox"
    cloud.dynamo.create_table(
        TableName=outbox,
        KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "B"}],
        BillingMode="PAY_PER_REQUEST",
    )
    receiver = Receiver()
    secret = tmp_path / "webhook.secret"
    secret.write_bytes(SECRET)
    settings = {
        **cloud.settings(lake),
        "ANABRANCH__SOURCE__OUTBOX_TABLE": outbox,
        "ANABRANCH__NOTIFY__CHANNEL": "webhook",
        "ANABRANCH__NOTIFY__WEBHOOK__URL": receiver.url,
        "ANABRANCH__NOTIFY__WEBHOOK__SECRET_FILE": str(secret),
        "ANABRANCH__NOTIFY__RULES__THANKS__EVENT_TYPES": '["purchase"]',
        "ANABRANCH__NOTIFY__RULES__THANKS__COOL_DOWN_MINUTES": "0",
    }
    streams = {}
    for name in ("first", "second"):
        streams[name] = make(name).start(**settings, ANABRANCH__SOURCE__WORKER=name)

    def who_sends():
        item = cloud.dynamo.get_item(TableName=cloud.leases, Key={"leaseKey": {"S": "notifications"}}).get("Item", {})
        return item.get("leaseOwner", {}).get("S")

    def put(user, kind, key):
        event = {"userId": user, "itemId": "item-3", "eventType": kind, "sentAt": int(time.time() * 1000)}
        cloud.kinesis.put_record(StreamName=cloud.stream, Data=json.dumps(event).encode(), PartitionKey=key)

    sender = wait_until("somebody sends", who_sends)
    for number in range(20):
        put(f"user-{number}", "purchase", f"key-{number}")
    wait_until("everybody is thanked", lambda: len(receiver.bodies) == 20, 20)

    # The one that sends is killed; its lease runs out.
    streams.pop(sender).kill()
    for number in range(20, 30):
        put(f"user-{number}", "purchase", f"key-{number}")
    wait_until("the other goes on", lambda: len(receiver.bodies) == 30, 30)
    assert who_sends() not in (None, sender)
    times = {}
    for bodies in receiver.bodies.values():
        assert all(body == bodies[0] for body in bodies), "a repeat is the same message"
        times[bodies[0]["userId"]] = len(bodies)
    assert sorted(times) == sorted(f"user-{number}" for number in range(30))
    assert all(times[f"user-{number}"] == 1 for number in range(20, 30)), times
    assert max(times.values()) <= 2, times
    assert receiver.bad == []

    # The metrics tell; a clean end gives the lease back.
    [(_, last)] = streams.items()

    def metrics():
        return last.ask("/metrics").body.decode()

    assert 'anabranch_notifications_total{outcome="sent"}' in metrics()
    # Who was sent the last one knows of it before the sender has its answer and takes it out of the outbox.
    wait_until("nothing waits", lambda: "anabranch_notifications_waiting_age_seconds 0.0" in metrics(), 20)
    assert last.stop() == 0, last.told()
    assert who_sends() is None
    receiver.server.shutdown()


def test_parquet_objects_are_plain_tables(ministack, kinesalite, workers):
    make, lake = workers
    cloud = Cloud(ministack, kinesalite, shards=1)
    settings = {**cloud.settings(lake), "ANABRANCH__STREAM__FORMAT": "parquet"}
    home = make("columns")
    stream = home.start(**settings)
    run_id = secrets.token_hex(3)
    events = [event(run_id, number) for number in range(300)]
    put_by_boto3(cloud, events[:150])
    wait_until("something is delivered", cloud.lists, 60)
    # The commit point is found in a footer's tail after a crash.
    stream.kill()
    put_by_kpl(cloud, events[150:])
    stream = home.start(**settings)
    cloud.wait_delivered([value["eventId"] for value in events])

    keys = [entry["Key"] for entry in cloud.s3.list_objects_v2(Bucket=cloud.bucket, Prefix="live/recommendations/")["Contents"]]
    assert keys and all(key.endswith(".parquet") for key in keys)
    folder = home.path / "objects"
    folder.mkdir()
    for number, key in enumerate(keys):
        cloud.s3.download_file(cloud.bucket, key, str(folder / f"{number}.parquet"))
    rows = duckdb.sql(
        f"select eventId, userId, epoch_ms(eventTimeMs), len(items), items[1].itemId, items[1].score, subSequenceNumber "
        f"from '{folder}/*.parquet'"
    ).fetchall()
    times = {value["eventId"]: value["sentAt"] for value in events}
    assert len(rows) == len(events)
    for event_id, user, at, length, item, score, sub in rows:
        number = int(event_id.rsplit("-", 1)[1])
        assert user == f"{run_id}-user-{number % USERS}"
        assert at == times[event_id]
        assert length == 5 and item and score is not None
        assert (sub is not None) == (number >= 150)
    described = dict(duckdb.sql(f"describe select * from '{folder}/0.parquet'").fetchall()[i][:2] for i in range(15))
    assert described["items"] == "STRUCT(itemId VARCHAR, score FLOAT)[]"
    assert described["eventTimeMs"].startswith("TIMESTAMP")


def test_splits_and_merges_of_a_running_stream(ministack, kinesalite, workers):
    make, lake = workers
    cloud = Cloud(ministack, kinesalite, shards=2)
    settings = cloud.settings(lake)
    homes = [make("first"), make("second")]
    streams = [home.start(**settings) for home in homes]
    run_id = secrets.token_hex(3)
    events = [event(run_id, number) for number in range(600)]

    def open_shards():
        shards = cloud.kinesis.list_shards(StreamName=cloud.stream)["Shards"]
        return [shard for shard in shards if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]

    put_by_boto3(cloud, events[:150])
    put_by_kpl(cloud, events[150:200])
    shard = open_shards()[0]
    first, last = (int(shard["HashKeyRange"][name]) for name in ("StartingHashKey", "EndingHashKey"))
    cloud.kinesis.split_shard(
        StreamName=cloud.stream, ShardToSplit=shard["ShardId"], NewStartingHashKey=str((first + last) // 2)
    )
    cloud.wait_active()
    put_by_boto3(cloud, events[200:350])
    # A crash while parents and children are under way.
    streams[0].kill()
    put_by_kpl(cloud, events[350:400])
    left, right = sorted(open_shards(), key=lambda shard: int(shard["HashKeyRange"]["StartingHashKey"]))[:2]
    cloud.kinesis.merge_shards(
        StreamName=cloud.stream, ShardToMerge=left["ShardId"], AdjacentShardToMerge=right["ShardId"]
    )
    cloud.wait_active()
    put_by_boto3(cloud, events[400:])
    streams[0] = homes[0].start(**settings)
    cloud.wait_delivered([value["eventId"] for value in events], 120)

    # Every user's events stand in their history, in the order in which they were put.
    user = events[7]["userId"]
    entries = streams[0].ask(f"/history/{user}").json()["entries"]
    assert len(entries) == sum(value["userId"] == user for value in events)

    def ended():
        items = cloud.dynamo.scan(TableName=cloud.leases)["Items"]
        return {item["leaseKey"]["S"] for item in items if item["checkpoint"]["S"] != "SHARD_END"}

    open_ids = {shard["ShardId"] for shard in open_shards()}
    held = wait_until(
        "only open shards are read",
        lambda: {s["shardId"] for stream in streams for s in stream.status()["shards"]} == open_ids,
        60,
    )
    assert held and open_ids <= ended()
    for stream in streams:
        assert stream.stop() == 0, stream.told()

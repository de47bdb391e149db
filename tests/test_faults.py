"""Real clients and real HTTP between services that fail: boto3 and our ingest, the worker and its Kinesis, DynamoDB and S3,
the function `stream` and its Firehose, DynamoDB and S3. A proxy (tests/proxy.py) plays the faults by a seed.

What must hold whatever strikes: every event that was acknowledged is in exactly one delivered list (through Firehose in one or
more, all with one id), none is invented, a user's lists follow the order of the stream, and the histories are those of a run
that nothing disturbed. Through Firehose no order is promised, so none is asked for.

The seed is printed; ANABRANCH_FAULTS_SEED repeats the faults as far as threads keep their order.
"""

import base64
import json
import os
import random
import shutil
import subprocess
import threading
import time
import uuid
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from conftest import BINARY, Home, decompress, environment, wait_until
from journeys import history_bytes
from proxy import Faults, Proxy
from test_kinesis_worker import KEYS, Cloud

SEED = int(os.environ.get("ANABRANCH_FAULTS_SEED", str(random.SystemRandom().randrange(10**9))))
USERS = 24
ROUNDS = 25
# The SDK of worker and functions gives a request up after 15 seconds.
SDK_TIMEOUT_S = 15
ANY = {"throttled": 0.05, "error": 0.05, "cut-before": 0.04, "cut-after": 0.05, "half": 0.03, "partial": 0.1}


def events_of(run_id, now_ms, rounds=ROUNDS):
    """Rounds with one event of each user."""
    for number in range(rounds):
        yield [
            {
                "userId": f"{run_id}-user-{user}",
                "itemId": f"item-{(number * 31 + user * 7) % 97}",
                "eventType": ["view", "cart", "purchase"][(number + user) % 3],
                "eventId": f"{run_id}-{user}-{number:04}",
                "sentAt": now_ms + number,
            }
            for user in range(USERS)
        ]


def put_rounds(kinesis, stream, rounds):
    """As a producer does that cares: whatever is not acknowledged is put again, and before what comes after it."""
    for events in rounds:
        left = [{"Data": json.dumps(event).encode(), "PartitionKey": event["userId"]} for event in events]
        for _ in range(200):
            try:
                told = kinesis.put_records(StreamName=stream, Records=left)["Records"]
            except (ClientError, BotoCoreError):
                time.sleep(0.01)
                continue
            left = [record for record, outcome in zip(left, told, strict=True) if "ErrorCode" in outcome]
            if not left:
                break
        assert not left, "a producer that never gets through"


def check_lists(lists, rounds, place):
    """Each event in one list, none invented, and each user's lists in the order in which the events were put."""
    times = Counter(entry["eventId"] for entry in lists)
    wanted = {event["eventId"] for events in rounds for event in events}
    assert set(times) == wanted, (len(wanted - set(times)), set(times) - wanted)
    assert set(times.values()) == {1}, [key for key, count in times.items() if count > 1][:5]
    by_user = {}
    for entry in sorted(lists, key=place):
        by_user.setdefault(entry["userId"], []).append(entry)
    for entries in by_user.values():
        assert len({entry["shardId"] for entry in entries}) == 1
        ids = [entry["eventId"] for entry in entries]
        assert ids == sorted(ids), "a record overtook another of its key"


@pytest.fixture
def proxied():
    """Makes proxies; on a failure pytest shows the seed and what struck."""
    proxies = []
    print(f"ANABRANCH_FAULTS_SEED={SEED}")

    def make(name, upstream, **faults):
        proxies.append((name, Proxy(upstream, Faults(seed=SEED, **faults))))
        return proxies[-1][1]

    yield make
    for name, proxy in proxies:
        proxy.close()
        print(f"{name}: {dict(proxy.calls)}; faults {dict(proxy.struck)}")


def test_boto3_into_our_ingest(made_home, tmp_path, proxied):
    homes = []
    for name in ("calm", "wild"):
        shutil.copytree(made_home, tmp_path / name, ignore=shutil.ignore_patterns("shop", "scratch"))
        homes.append(Home(tmp_path / name))
    calm, wild = homes
    run_id = f"f{SEED % 1000}"
    rounds = list(events_of(run_id, int(time.time() * 1000) - 60_000))
    try:
        streams = [home.start() for home in homes]
        every = ("throttled", "error", "cut-before", "cut-after", "half", "partial", "slow", "late")
        proxy = proxied("ingest", streams[1].url, rates=ANY, slow_s=1.5)
        proxy.script("kinesis", "PutRecords", *every, None, *every)
        name = streams[0].status()["stream"]["name"]
        config = Config(retries={"max_attempts": 0}, read_timeout=1, connect_timeout=5)
        put_rounds(boto3.client("kinesis", endpoint_url=streams[0].url, config=config, **KEYS), name, rounds)
        # Three producers, each with its own users.
        producers = []
        for part in range(3):
            own = [events[part::3] for events in rounds]
            client = boto3.client("kinesis", endpoint_url=proxy.url, config=config, **KEYS)
            producers.append(Thread(put_rounds, client, name, own))
        for producer in producers:
            producer.finish()
        for stream in streams:
            stream.wait_committed()
        totals = streams[1].status()["totals"]
        assert [stream.stop() for stream in streams] == [0, 0]
    finally:
        for home in homes:
            home.end()
    assert proxy.kinds() >= set(every)
    lists = [entry for entry in wild.lists() if entry["eventId"].startswith(run_id)]
    check_lists(lists, rounds, lambda entry: int(entry["sequenceNumber"]))
    assert totals["accepted"] == totals["delivered"] + totals["duplicate"] == len(lists) + totals["duplicate"]
    # What landed without an answer, or after the client had given up, came again.
    assert totals["duplicate"] > 0
    assert history_bytes(wild.path, tmp_path / "wild.backup") == history_bytes(calm.path, tmp_path / "calm.backup")


class Thread(threading.Thread):
    """A thread whose failure is the test's."""

    def __init__(self, work, *arguments):
        super().__init__(daemon=True)
        self.work, self.arguments, self.fault = work, arguments, None
        self.start()

    def run(self):
        try:
            self.work(*self.arguments)
        except BaseException as fault:
            self.fault = fault

    def finish(self, seconds=120):
        self.join(seconds)
        assert not self.is_alive(), f"{self.work} does not end"
        if self.fault:
            raise self.fault


def histories(dynamo, table):
    """Every history's bytes by its key."""
    pages = dynamo.get_paginator("scan").paginate(TableName=table)
    items = [item for page in pages for item in page["Items"]]
    return {bytes(item["k"]["B"]): bytes(item["h"]["B"]) for item in items if item["k"]["B"][:1] in (b"u", b"s")}


def test_a_worker_among_services_that_fail(ministack, kinesalite, workers, proxied):
    make, lake = workers
    calm, wild = Cloud(ministack, kinesalite, shards=2), Cloud(ministack, kinesalite, shards=2)
    kinesis = proxied("kinesis", kinesalite, rates={**ANY, "expired": 0.05}, slow_s=SDK_TIMEOUT_S + 1)
    cloud = proxied("cloud", ministack, rates=ANY, slow_s=SDK_TIMEOUT_S + 1)
    kinesis.script("kinesis", "PutRecords", "partial", "cut-after", "throttled")
    kinesis.script("kinesis", "GetRecords", None, None, "expired", "half", "throttled")
    cloud.script("s3", "PUT", None, "cut-after", "throttled", "error")
    cloud.script("dynamodb", "BatchGetItem", None, "partial", "throttled", "half")
    run_id = f"w{SEED % 1000}"
    rounds = list(events_of(run_id, int(time.time() * 1000) - 60_000))
    homes = [make("calm"), make("wild")]
    disturbed = {**wild.settings(lake), "AWS_ENDPOINT_URL": cloud.url, "AWS_ENDPOINT_URL_KINESIS": kinesis.url}
    homes[0].start(**calm.settings(lake))
    stream = homes[1].start(**disturbed)

    config = Config(retries={"max_attempts": 0}, read_timeout=1)
    producer = boto3.client("kinesis", endpoint_url=kinesis.url, config=config, **KEYS)
    put_rounds(producer, wild.stream, rounds[: ROUNDS // 2])
    put_rounds(calm.kinesis, calm.stream, rounds)
    wait_until("something is delivered", wild.lists, 60)
    stream.kill()
    stream = homes[1].start(**disturbed)
    # The second process meets the time-outs, and loses the answer of an object that it created.
    kinesis.script("kinesis", "GetRecords", "slow")
    cloud.script("dynamodb", "PutItem", *[None] * 10, "cut-after", "throttled", "error", "slow")
    cloud.script("s3", "PUT", "cut-after", "cut-before", "half")
    put_rounds(producer, wild.stream, rounds[ROUNDS // 2 :])
    wanted = [event["eventId"] for events in rounds for event in events]
    wild.wait_delivered(wanted, 90)
    calm.wait_delivered(wanted, 60)
    wait_until("it is well while services fail now and then", lambda: stream.ask("/healthz").status == 200, 60)
    assert stream.stop() == 0, stream.told()

    assert kinesis.is_played() and cloud.is_played()
    assert kinesis.kinds() >= {"throttled", "error", "cut-before", "cut-after", "half", "partial", "expired", "slow"}
    assert cloud.kinds("s3") >= {"throttled", "error", "cut-after"}
    assert cloud.kinds("dynamodb") >= {"throttled", "error", "cut-after", "partial", "slow"}
    check_lists(wild.lists(), rounds, lambda entry: int(entry["sequenceNumber"]))
    wait_until(
        "the histories are those of the undisturbed run",
        lambda: histories(wild.dynamo, wild.table) == histories(calm.dynamo, calm.table),
    )
    assert len(histories(wild.dynamo, wild.table)) == USERS


class Sandbox:
    """One process of the function behind the Runtime API, which is played here, with a queue of its own: a request that a
    killed process has left behind takes nothing from the process after it."""

    def __init__(self, name, log, variables):
        self.waiting, self.answers, self.lock = deque(), {}, threading.Lock()
        self.ended = False
        sandbox = self

        class Api(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                while not sandbox.ended:
                    with sandbox.lock:
                        invocation = sandbox.waiting.popleft() if sandbox.waiting else None
                    if invocation:
                        break
                    time.sleep(0.005)
                else:
                    return
                self.send_response_only(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", invocation[0])
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int(time.time() * 1000) + 60_000))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:000000000000:function:f")
                self.send_header("Content-Length", str(len(invocation[1])))
                self.end_headers()
                self.wfile.write(invocation[1])

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                request_id, what = self.path.rsplit("/", 2)[1:]
                with sandbox.lock:
                    sandbox.answers[request_id] = (what, body)
                self.send_response_only(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # the process was killed

        self.server = Server(("127.0.0.1", 0), Api)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        env = environment(
            **variables,
            AWS_LAMBDA_RUNTIME_API=f"127.0.0.1:{self.server.server_port}",
            AWS_LAMBDA_FUNCTION_NAME=name,
            AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512",
            AWS_LAMBDA_FUNCTION_VERSION="$LATEST",
            AWS_LAMBDA_LOG_STREAM_NAME="l",
            AWS_LAMBDA_LOG_GROUP_NAME="g",
        )
        with log.open("ab") as out:
            self.process = subprocess.Popen([BINARY.parent / "stream"], env=env, stdout=out, stderr=subprocess.STDOUT)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.ended = True
        self.server.shutdown()
        self.server.server_close()


class Function:
    """The function as the service runs it: one sandbox, one invocation at a time, and a new sandbox after a death."""

    def __init__(self, name, log, variables):
        self.name, self.log, self.variables = name, log, variables
        self.starts = 0
        self.sandbox = None

    def invoke(self, event, kill_after_s=None):
        """The answer of one invocation, or `None` if it failed or its process ended."""
        if self.sandbox is None:
            self.starts += 1
            self.sandbox = Sandbox(self.name, self.log, self.variables)
        sandbox = self.sandbox
        request_id = str(uuid.uuid4())
        with sandbox.lock:
            sandbox.waiting.append((request_id, json.dumps(event).encode()))
        begin = time.monotonic()
        while time.monotonic() - begin < 60:
            with sandbox.lock:
                answer = sandbox.answers.pop(request_id, None)
            if answer:
                return json.loads(answer[1]) if answer[0] == "response" else None
            killed = kill_after_s is not None and time.monotonic() - begin > kill_after_s
            if killed or sandbox.process.poll() is not None:
                self.end()
                return None
            time.sleep(0.002)
        pytest.fail(f"an invocation does not end: {self.log.read_text(errors='replace')[-3000:]}")

    def end(self):
        if self.sandbox:
            self.sandbox.end()
            self.sandbox = None


def records_of(kinesis, stream):
    """Each shard's records in the form in which the event source mapping hands them over."""
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        at = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        records = kinesis.get_records(ShardIterator=at)["Records"]
        yield [
            {
                "eventID": f"{shard['ShardId']}:{record['SequenceNumber']}",
                "eventSourceARN": f"arn:aws:kinesis:us-east-1:000000000000:stream/{stream}",
                "kinesis": {
                    "partitionKey": record["PartitionKey"],
                    "sequenceNumber": record["SequenceNumber"],
                    "data": base64.b64encode(record["Data"]).decode(),
                    "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"].timestamp(),
                },
            }
            for record in records
        ]


def drive(function, shards, batch_size, chance=None):
    """The event source mapping: shard by shard in batches, again from where the answer says; some come twice."""
    seen = Counter()
    for records in shards:
        at = 0
        while at < len(records):
            batch = records[at : at + batch_size]
            seen["invocations"] += 1
            assert seen["invocations"] < 2000, "it makes no progress"
            # Some sandboxes die: one for certain, before it has begun in earnest, others by chance.
            kill_after_s = None
            if chance and seen["invocations"] == 3:
                kill_after_s = 0.0
            elif chance and chance.random() < 0.1:
                kill_after_s = chance.uniform(0.0, 0.08)
            answer = function.invoke({"Records": batch}, kill_after_s)
            if answer is None:
                seen["failed or killed"] += 1
                continue
            failures = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
            numbers = [record["kinesis"]["sequenceNumber"] for record in batch]
            if failures:
                seen["in part"] += 1
                at += min(numbers.index(number) for number in failures)
            elif chance and (seen["twice"] == 0 or chance.random() < 0.15):
                seen["twice"] += 1
            else:
                at += len(batch)
    return seen


@pytest.mark.parametrize("firehose", ["lists", ""], ids=["through Firehose", "exactly-once objects"])
def test_the_function_among_services_that_fail(made_home, ministack, kinesalite, proxied, tmp_path, firehose):
    cloud = Cloud(ministack, kinesalite, shards=2)
    tables = {"calm": f"{cloud.table}-calm", "wild": cloud.table}
    cloud.dynamo.create_table(
        TableName=tables["calm"], KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "B"}], BillingMode="PAY_PER_REQUEST",
    )
    models = made_home / "lake" / "models"
    for path in models.rglob("*"):
        if path.is_file():
            cloud.s3.upload_file(str(path), cloud.bucket, f"lake/models/{path.relative_to(models)}")
    streams = {}
    if firehose:
        client = boto3.client("firehose", endpoint_url=ministack, **KEYS)
        for name in tables:
            streams[name] = f"{cloud.stream}-{name}"
            client.create_delivery_stream(
                DeliveryStreamName=streams[name], DeliveryStreamType="DirectPut",
                ExtendedS3DestinationConfiguration={
                    "RoleARN": "arn:aws:iam::000000000000:role/r", "BucketARN": f"arn:aws:s3:::{cloud.bucket}",
                    "Prefix": f"{name}/", "ErrorOutputPrefix": f"errors/{name}/",
                },
            )
    proxy = proxied("cloud", ministack, rates=ANY, slow_s=SDK_TIMEOUT_S + 1)
    proxy.script("dynamodb", "PutItem", *[None] * 20, "throttled", "error", "cut-after", "half", "cut-before")
    proxy.script("dynamodb", "BatchGetItem", None, "partial", "throttled", "half")
    if firehose:
        proxy.script("firehose", "PutRecordBatch", "partial", "cut-after", "throttled", "error", "half", "slow", "cut-before")
        # Then a part goes through, and nothing any more for as long as a call is tried: the mapping is told where to begin again.
        proxy.script("firehose", "PutRecordBatch", None, None, "partial", *["throttled"] * 8)
    else:
        proxy.script("s3", "PUT", "cut-after", "throttled", "error", None, "half")

    def function(name, url):
        return Function(
            name, tmp_path / f"{name}.log",
            {
                "ANABRANCH__PLACES__LAKE": f"s3://{cloud.bucket}/lake",
                "ANABRANCH__PLACES__DELIVERED": f"s3://{cloud.bucket}/live-{name}",
                "ANABRANCH__LAMBDA__TABLE": tables[name],
                "ANABRANCH__LAMBDA__FIREHOSE": streams.get(name, ""),
                "ANABRANCH__LAMBDA__ERASURE_KEY": "07" * 32,
                "ANABRANCH__LAMBDA__NAMESPACE": "clicks-1",
                "ANABRANCH__LAMBDA__CACHE_FOLDER": str(tmp_path / f"cache-{name}"),
                # Longer lists, so that a batch takes several records of Firehose and one of them can fail.
                "ANABRANCH__STREAM__LIST_LENGTH": "100",
                "AWS_ENDPOINT_URL": url,
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
            },
        )

    run_id = f"l{SEED % 1000}"
    rounds = list(events_of(run_id, int(time.time() * 1000) - 60_000))
    put_rounds(cloud.kinesis, cloud.stream, rounds)
    shards = list(records_of(cloud.kinesis, cloud.stream))
    assert sum(map(len, shards)) == USERS * ROUNDS and all(shards)
    functions = function("calm", ministack), function("wild", proxy.url)
    try:
        drive(functions[0], shards, 80)
        seen = drive(functions[1], shards, 80, random.Random(SEED))
        seen["starts"] = functions[1].starts
    finally:
        for each in functions:
            each.end()
        print((tmp_path / "wild.log").read_text(errors="replace")[-3000:])
    print(dict(seen))

    assert seen["starts"] > 1 and seen["twice"] > 0 and seen["failed or killed"] > 0, seen
    assert proxy.is_played() and (seen["in part"] > 0 or not firehose), seen
    assert proxy.kinds("dynamodb") >= {"throttled", "error", "cut-after", "partial"}
    assert histories(cloud.dynamo, tables["wild"]) == histories(cloud.dynamo, tables["calm"])
    assert len(histories(cloud.dynamo, tables["wild"])) == USERS
    if not firehose:
        assert proxy.kinds("s3") >= {"throttled", "error", "cut-after"}
        check_lists(lists_below(cloud, "live-wild/recommendations/"), rounds, lambda entry: int(entry["sequenceNumber"]))
        return
    assert proxy.kinds("firehose") >= {"throttled", "error", "cut-after", "half", "partial", "slow"}
    lists = lists_below(cloud, "wild/")
    ids = {}
    for entry in lists:
        ids.setdefault(entry["eventId"], set()).add(entry["recommendationId"])
    assert set(ids) == {event["eventId"] for events in rounds for event in events}, "each at least once, none invented"
    assert {len(found) for found in ids.values()} == {1}, "with one id, however often"
    assert len(lists) > len(ids), "what landed without an answer came again"
    expected = {entry["eventId"]: entry["recommendationId"] for entry in lists_below(cloud, "calm/")}
    assert {event: next(iter(found)) for event, found in ids.items()} == expected


def lists_below(cloud, prefix):
    lists = []
    for page in cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=cloud.bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            body = cloud.s3.get_object(Bucket=cloud.bucket, Key=entry["Key"])["Body"].read()
            body = decompress(body) if entry["Key"].endswith(".zst") else body
            assert body.endswith(b"\n")
            lists += [json.loads(line) for line in body.splitlines()]
    return lists

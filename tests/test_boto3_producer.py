"""AWS's own client as the producer: what it was told was taken is delivered once, and nothing else is."""

import json
import secrets
import time
from collections import Counter

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

USERS = 40


def client(stream, service="kinesis"):
    return boto3.client(
        service,
        endpoint_url=stream.url,
        region_name="eu-central-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 0}),
    )


def event(run, number, **more):
    return {
        "userId": f"{run}-user-{number % USERS}",
        "itemId": f"item-{number % 97}",
        "eventType": ["view", "cart", "purchase"][number % 3],
        "eventId": f"{run}-{number}",
        "sentAt": int(time.time() * 1000),
        **more,
    }


def record(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    key = value["userId"] if isinstance(value, dict) and "userId" in value else "somebody"
    return {"Data": data, "PartitionKey": key}


def refusal(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response


def test_what_boto3_puts_is_delivered_exactly_once(home):
    stream = home.start()
    kinesis = client(stream)
    name = stream.status()["stream"]["name"]
    run = secrets.token_hex(4)

    summary = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    assert summary["StreamStatus"] == "ACTIVE"
    shards = {shard["ShardId"] for shard in kinesis.list_shards(StreamName=name)["Shards"]}
    assert len(shards) == summary["OpenShardCount"]

    # One by one, by name and by ARN.
    good = [event(run, number) for number in range(5)]
    for value in good:
        placed = kinesis.put_record(StreamARN=summary["StreamARN"], **record(value))
        assert placed["ShardId"] in shards
        assert placed["SequenceNumber"].isdecimal()

    # Full calls; among the records every seventh repeats an earlier event.
    numbers = range(5, 1505)
    batch = [event(run, number) for number in numbers]
    good += batch
    repeated = [value for number, value in enumerate(batch) if number % 7 == 0]
    sequences = set()
    for values in (batch[:500], batch[500:1000], batch[1000:], repeated):
        answer = kinesis.put_records(StreamName=name, Records=[record(value) for value in values])
        assert answer["FailedRecordCount"] == 0
        places = [(outcome["ShardId"], outcome["SequenceNumber"]) for outcome in answer["Records"]]
        assert len(places) == len(values)
        sequences.update(places)
    assert len(sequences) == len(batch) + len(repeated), "every record has a place of its own"

    # Bad records are taken, as Kinesis takes any bytes, and end among the dead letters.
    bad = [
        b"\xff\xfe not a text " + run.encode(),
        b"no json " + run.encode(),
        event(run, 2001, eventType="stare"),
        event(run, 2002, itemId=""),
        event(run, 2003, sentAt="yesterday"),
        event(run, 2004, userId="u" * 257),
        event(run, 2005, sentAt=int((time.time() + 10 * 86400) * 1000)),
    ]
    records = [record(value) for value in bad]
    records[5]["PartitionKey"] = "somebody"
    assert kinesis.put_records(StreamName=name, Records=records)["FailedRecordCount"] == 0

    stream.wait_committed()
    assert stream.stop() == 0, stream.told()

    ids = Counter(line["eventId"] for line in home.lists() if line["eventId"].startswith(run))
    wanted = {value["eventId"] for value in good}
    assert set(ids) == wanted, "none missing, none invented"
    assert max(ids.values()) == 1, "none twice"

    letters = [letter for letter in home.dead_letters() if run in letter.get("raw", "") or "rawBase64" in letter]
    assert sorted(letter["code"] for letter in letters) == sorted(
        [
            "unparsable",
            "unparsable",
            "unknown-event-type",
            "missing-item",
            "bad-time",
            "id-too-long",
            "time-too-new",
        ]
    )


def test_what_aws_refuses_is_refused_in_its_words(home):
    stream = home.start()
    kinesis = client(stream)
    name = stream.status()["stream"]["name"]
    before = stream.status()["shards"]
    small = {"Data": b"{}", "PartitionKey": "k"}

    def code(response):
        return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]

    put, puts = kinesis.put_record, kinesis.put_records
    large = {"Data": b"x" * (1 << 20), "PartitionKey": "k"}
    assert code(refusal(put, StreamName=name, **large)) == (400, "ValidationException")
    assert code(refusal(puts, StreamName=name, Records=[small, large])) == (400, "ValidationException")
    assert code(refusal(puts, StreamName=name, Records=[small] * 501)) == (400, "ValidationException")
    megabyte = {"Data": b"x" * ((1 << 20) - 1), "PartitionKey": "k"}
    assert code(refusal(puts, StreamName=name, Records=[megabyte] * 11)) == (400, "InvalidArgumentException")
    assert code(refusal(put, StreamName="other", **small)) == (400, "ResourceNotFoundException")
    assert code(refusal(put, StreamName=name, ExplicitHashKey=str(1 << 128), **small)) == (400, "InvalidArgumentException")
    response = refusal(put, StreamName=name, Data=b"{}", PartitionKey="k" * 257)
    assert code(response) == (400, "ValidationException")
    assert "256" in response["Error"]["Message"]
    assert response["ResponseMetadata"]["RequestId"]

    newest = [shard["newest"] for shard in stream.status()["shards"]]
    assert newest == [shard["newest"] for shard in before], "nothing refused was written"
    assert puts(StreamName=name, Records=[megabyte] * 10)["FailedRecordCount"] == 0


def test_personalizes_own_clients_work_too(home):
    stream = home.start()
    run = secrets.token_hex(4)
    events = client(stream, "personalize-events")
    events.put_events(
        trackingId="any",
        userId=f"{run}-user",
        sessionId=f"{run}-session",
        eventList=[{"eventType": "view", "itemId": "item-1", "eventId": f"{run}-1", "sentAt": time.time()}],
    )
    stream.wait_committed()
    history = stream.ask(f"/history/{run}-user").json()
    assert [entry["eventType"] for entry in history["entries"]] == ["view"]
    runtime = client(stream, "personalize-runtime")
    arn = "arn:aws:personalize:eu-central-1:000000000000:campaign/any"
    answer = runtime.get_recommendations(campaignArn=arn, userId=f"{run}-user", numResults=7)
    assert len(answer["itemList"]) == 7
    assert answer["recommendationId"].startswith("RID-")


def test_a_killed_stream_keeps_what_it_acknowledged(home):
    run = secrets.token_hex(4)
    acknowledged = []
    for round_number in range(3):
        stream = home.start()
        kinesis = client(stream)
        name = stream.status()["stream"]["name"]
        values = [event(run, round_number * 1000 + number) for number in range(300)]
        answer = kinesis.put_records(StreamName=name, Records=[record(value) for value in values])
        assert answer["FailedRecordCount"] == 0
        acknowledged += [value["eventId"] for value in values]
        stream.kill()
    stream = home.start()
    stream.wait_committed()
    assert stream.stop() == 0, stream.told()
    ids = Counter(line["eventId"] for line in home.lists() if line["eventId"].startswith(run))
    assert ids == Counter(acknowledged), "each once"

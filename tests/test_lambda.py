"""The functions as Lambda runs them: ministack starts the zips' bootstrap behind an event source mapping and as Firehose's
processor. boto3 puts the events; what lies in S3 at the other end is read back.

ministack delivers one Firehose object for each record, and ignores `batchItemFailures`: partial failure is held by the
tests of the package itself.
"""

import base64
import gzip
import io
import json
import os
import shutil
import time
import urllib.request
import zipfile
from pathlib import Path

import boto3
import pytest

from conftest import BINARY, decompress, wait_until

ZIPS = os.environ.get("ANABRANCH_LAMBDA")  # a folder such as target/lambda-zips/x86_64-unknown-linux-gnu
REGION = "us-east-1"
ACCOUNT = "000000000000"
USERS = 7
EVENTS = 60


def zip_of(name):
    """A zip that Lambda takes: one of `make lambda`, or the release build, which the machine of the tests can run."""
    if ZIPS:
        return (Path(ZIPS) / name / "bootstrap.zip").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, (BINARY.parent / name).read_bytes(), compresslevel=1)
    return packed.getvalue()


class Cloud:
    """ministack's services, with a model, a table and buckets."""

    def __init__(self, url, models):
        self.url = url
        for name in ("s3", "kinesis", "firehose", "lambda", "dynamodb"):
            client = boto3.client(
                name, endpoint_url=url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
            )
            setattr(self, "lambda_" if name == "lambda" else name, client)
        for bucket in ("lake", "lists"):
            self.s3.create_bucket(Bucket=bucket)
        for path in models.rglob("*"):
            if path.is_file():
                self.s3.upload_file(str(path), "lake", f"shop/models/{path.relative_to(models)}")
        self.dynamodb.create_table(
            TableName="state",
            KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "B"}],
            BillingMode="PAY_PER_REQUEST",
        )

    def function(self, name, **settings):
        """Creates the function; its ARN."""
        variables = {
            "ANABRANCH__PLACES__LAKE": "s3://lake/shop",
            "ANABRANCH__PLACES__DELIVERED": "s3://lists/live",
            "ANABRANCH__LAMBDA__TABLE": "state",
            "ANABRANCH__LAMBDA__ERASURE_KEY": "07" * 32,
            "ANABRANCH__LAMBDA__NAMESPACE": "clicks-1",
            "ANABRANCH__LAMBDA__CACHE_FOLDER": f"/tmp/anabranch-{os.getpid()}-{name}",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            **settings,
        }
        return self.lambda_.create_function(
            FunctionName=name, Runtime="provided.al2023", Handler="bootstrap", Role=f"arn:aws:iam::{ACCOUNT}:role/r",
            Code={"ZipFile": zip_of(name)}, Timeout=60, MemorySize=512, Environment={"Variables": variables},
        )["FunctionArn"]

    def delivery_stream(self, name, **more):
        """A Firehose stream into the bucket of lists; the error prefix lies outside its prefix."""
        self.firehose.create_delivery_stream(
            DeliveryStreamName=name,
            DeliveryStreamType="DirectPut",
            ExtendedS3DestinationConfiguration={
                "RoleARN": f"arn:aws:iam::{ACCOUNT}:role/r",
                "BucketARN": "arn:aws:s3:::lists",
                "Prefix": f"{name}/",
                "ErrorOutputPrefix": f"errors/{name}/",
                **more,
            },
        )

    def objects(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="lists", Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [(key, self.s3.get_object(Bucket="lists", Key=key)["Body"].read()) for key in keys]

    def lists(self, prefix):
        """Every line below a prefix; each object ends its last line."""
        lines = []
        for key, body in self.objects(prefix):
            if key.endswith(".zst"):
                body = decompress(body)
            elif key.endswith(".gz"):
                body = gzip.decompress(body)
            assert body.endswith(b"\n"), f"{key} does not end its line"
            lines += [json.loads(line) for line in body.splitlines()]
        return lines


@pytest.fixture
def cloud(made_home, ministack):
    yield Cloud(ministack, made_home / "lake" / "models")
    urllib.request.urlopen(urllib.request.Request(f"{ministack}/_ministack/reset", method="POST"), timeout=30).close()
    for cache in Path("/tmp").glob(f"anabranch-{os.getpid()}-*"):
        shutil.rmtree(cache)


def events():
    """Events by their id, with the user that they are put under."""
    now_ms = int(time.time() * 1000)
    for number in range(EVENTS):
        user = f"u{number % USERS}"
        kind = ("view", "cart", "purchase")[number % 3]
        yield user, {
            "eventId": f"e{number}", "userId": user, "itemId": f"i{number % 11}", "eventType": kind,
            "sentAt": now_ms - EVENTS + number,
        }


def put_events(kinesis):
    """Puts every event, and one record that is none, until the stream has all."""
    waiting = [{"PartitionKey": user, "Data": json.dumps(event).encode()} for user, event in events()]
    waiting.insert(20, {"PartitionKey": "u0", "Data": b"no json"})
    while waiting:
        answer = kinesis.put_records(StreamName="clicks", Records=waiting[:500])["Records"]
        waiting = [record for record, done in zip(waiting, answer) if done.get("ErrorCode")] + waiting[500:]


def all_events(lists):
    return {record["eventId"] for record in lists} == {f"e{number}" for number in range(EVENTS)}


def open_stream(cloud, shards=2):
    cloud.kinesis.create_stream(StreamName="clicks", ShardCount=shards)
    wait_until(
        "the stream is active",
        lambda: cloud.kinesis.describe_stream_summary(StreamName="clicks")["StreamDescriptionSummary"]["StreamStatus"]
        == "ACTIVE",
    )
    return cloud.kinesis.describe_stream_summary(StreamName="clicks")["StreamDescriptionSummary"]["StreamARN"]


def map_to(cloud, stream_arn, function_arn):
    cloud.lambda_.create_event_source_mapping(
        EventSourceArn=stream_arn, FunctionName=function_arn, StartingPosition="TRIM_HORIZON", BatchSize=25,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )


def check_lists(lists):
    ids = {record["recommendationId"] for record in lists}
    assert len(ids) == EVENTS, "one id for each event"
    assert all(1 <= len(record["items"]) <= 20 for record in lists)
    for user in range(USERS):
        mine = [record for record in lists if record["userId"] == f"u{user}"]
        assert len({record["shardId"] for record in mine}) == 1, "a user's events are in one shard"


@pytest.mark.parametrize("firehose", ["lists", ""], ids=["through Firehose", "exactly-once objects"])
def test_stream_behind_an_event_source_mapping(cloud, firehose):
    stream_arn = open_stream(cloud)
    if firehose:
        cloud.delivery_stream(firehose)
    # Nobody says the namespace: it is a worker's, so a stream that is made again has one of its own.
    settings = {"ANABRANCH__LAMBDA__FIREHOSE": firehose, "ANABRANCH__LAMBDA__NAMESPACE": ""}
    map_to(cloud, stream_arn, cloud.function("stream", **settings))
    put_events(cloud.kinesis)
    summary = cloud.kinesis.describe_stream_summary(StreamName="clicks")["StreamDescriptionSummary"]
    namespace = f"clicks-{round(summary['StreamCreationTimestamp'].timestamp() * 1000)}"
    prefix = "lists/" if firehose else f"live/recommendations/{namespace}/"
    wait_until("every event has its list in S3", lambda: all_events(cloud.lists(prefix)), 120)
    lists = cloud.lists(prefix)
    check_lists(lists)
    if not firehose:
        assert len(lists) == EVENTS, "each exactly once"
    letters_prefix = f"live/dead-letters/{namespace}/"
    letters = wait_until("the record that is no event is a dead letter", lambda: cloud.lists(letters_prefix), 30)
    assert [letter["raw"] for letter in letters] == ["no json"]
    # Histories are there, one item a user, and a checkpoint for each shard.
    items = cloud.dynamodb.scan(TableName="state")["Items"]
    assert len(items) == USERS + 2


def test_transform_as_firehose_processor(cloud):
    function_arn = cloud.function("transform", ANABRANCH__LAMBDA__PARTITION="day")
    processor = {"Type": "Lambda", "Parameters": [{"ParameterName": "LambdaArn", "ParameterValue": function_arn}]}
    cloud.delivery_stream("transformed", ProcessingConfiguration={"Enabled": True, "Processors": [processor]})
    records = [{"Data": json.dumps(event).encode() + b"\n"} for _, event in events()]
    records.insert(20, {"Data": b"no json"})
    for start in range(0, len(records), 25):
        answer = cloud.firehose.put_record_batch(DeliveryStreamName="transformed", Records=records[start : start + 25])
        assert answer["FailedPutCount"] == 0
    wait_until("every event has its list in S3", lambda: all_events(cloud.lists("transformed/")), 120)
    lists = cloud.lists("transformed/")
    assert len(lists) == EVENTS, "nothing of the record that is no event, and no record passed through untouched"
    check_lists(lists)


def test_transform_answers_as_firehose_asks(cloud):
    cloud.function("transform", ANABRANCH__LAMBDA__PARTITION="hour")
    _, event = next(events())
    event["sentAt"] = 1_700_000_000_000 - 5  # an event from after its arrival would be refused
    datas = [json.dumps(event).encode(), b"no json"]
    request = {
        "invocationId": "i", "deliveryStreamArn": "a", "region": REGION,
        "records": [
            {
                "recordId": f"r{place}", "approximateArrivalTimestamp": 1_700_000_000_000,
                "data": base64.b64encode(data).decode(),
                "kinesisRecordMetadata": {
                    "shardId": "shardId-000000000001", "partitionKey": "u0", "sequenceNumber": f"{place + 1}",
                    "subsequenceNumber": "", "approximateArrivalTimestamp": "2023-11-14T22:13:20Z",
                },
            }
            for place, data in enumerate(datas)
        ],
    }

    def invoke():
        answer = cloud.lambda_.invoke(FunctionName="transform", Payload=json.dumps(request).encode())
        assert "FunctionError" not in answer
        return json.loads(answer["Payload"].read())["records"]

    first = invoke()
    assert [(record["recordId"], record["result"]) for record in first] == [("r0", "Ok"), ("r1", "ProcessingFailed")]
    assert first[0]["metadata"] == {"partitionKeys": {"day": "2023-11-14", "hour": "22"}}
    line = json.loads(base64.b64decode(first[0]["data"]))
    assert (line["eventId"], line["shardId"], line["sequenceNumber"]) == ("e0", "shardId-000000000001", "1")
    # Its answer was lost: Firehose asks again, and the id is the same.
    again = json.loads(base64.b64decode(invoke()[0]["data"]))
    assert again["recommendationId"] == line["recommendationId"]

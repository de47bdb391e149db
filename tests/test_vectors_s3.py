"""The adapter for Amazon S3 Vectors over HTTP, with signatures checked, against moto behind `vectors_service.py`."""

import contextlib
import os
import subprocess
import sys

import boto3
import pytest
from botocore.exceptions import ClientError

from conftest import ROOT, environment, free_port, wait_until
from vectors_service import VectorsService, holds

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
OPERATIONS = {
    "CreateIndex", "GetIndex", "ListIndexes", "DeleteIndex", "PutVectors", "GetVectors", "ListVectors", "DeleteVectors",
    "QueryVectors",
}


@pytest.fixture
def service():
    with running_service() as door:
        yield door


@contextlib.contextmanager
def running_service():
    """moto behind the door, with a bucket."""
    port = free_port()
    moto = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    direct = boto3.client("s3vectors", endpoint_url=f"http://127.0.0.1:{port}", **KEYS)

    def answers():
        try:
            return direct.list_vector_buckets() is not None
        except Exception:  # noqa: BLE001 - not up yet, in whatever way
            return False

    try:
        wait_until("moto answers", answers, 60)
        direct.create_vector_bucket(vectorBucketName="anabranch-test")
        with VectorsService(port) as door:
            yield door
    finally:
        moto.kill()
        moto.wait()


def run_suite(url):
    """Runs the Rust test against `url`; with the features of the Makefile's build, so that nothing is compiled twice."""
    cargo = os.environ.get("CARGO", "cargo")
    chosen = ["--release", "--locked", "--workspace", "--test", "s3_vectors"]
    has_nextest = subprocess.run([cargo, "nextest", "--version"], capture_output=True, check=False).returncode == 0
    runner = ["nextest", "run", *chosen, "--no-capture"] if has_nextest else ["test", *chosen, "--", "--nocapture"]
    settings = {
        "ANABRANCH_TEST_S3VECTORS_ENDPOINT": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "PYO3_BUILD_EXTENSION_MODULE": "1",
    }
    clean = {name: value for name, value in environment(**settings).items() if name != "AWS_SESSION_TOKEN"}
    return subprocess.run([cargo, *runner], cwd=ROOT, env=clean, capture_output=True, text=True, check=False, timeout=1800)


def test_the_adapter_conforms_over_the_wire(service):
    done = run_suite(service.url)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-5000:]
    assert "ran over the wire" in told and "skipped: set" not in told, told[-5000:]
    assert service.denied == []
    assert service.operations == OPERATIONS, "every operation of the adapter, and no other"


def test_the_door_speaks_as_the_sdk_expects(service):
    """boto3 reads what the door answers, and a wrong key is refused: so the signature check checks."""
    client = boto3.client("s3vectors", endpoint_url=service.url, **KEYS)
    place = {"vectorBucketName": "anabranch-test", "indexName": "probe"}
    client.create_index(**place, dataType="float32", dimension=2, distanceMetric="cosine")
    vectors = [
        {"key": str(key), "data": {"float32": [1.0, key / 10]}, "metadata": {"even": key % 2 == 0}} for key in range(90)
    ]
    client.put_vectors(**place, vectors=vectors)
    asked = {
        **place, "queryVector": {"float32": [1.0, 0.0]}, "topK": 40, "filter": {"even": {"$eq": True}},
        "returnMetadata": True, "returnDistance": True,
    }
    pages = list(client.get_paginator("query_vectors").paginate(**asked))
    found = [vector["key"] for answer in pages for vector in answer["vectors"]]
    assert len(pages) == 2 and found == [str(key) for key in range(0, 80, 2)]
    assert service.denied == []
    wrong = boto3.client("s3vectors", endpoint_url=service.url, **{**KEYS, "aws_secret_access_key": "wrong"})
    with pytest.raises(ClientError, match="AccessDenied"):
        wrong.get_index(**place)
    assert service.denied == ["the signature is not botocore's"]


def test_filters_are_read_strictly():
    metadata = {"year": 2020, "tags": ["a", "b"], "flag": True, "numbers": [1, 2]}
    assert holds({"$and": [{"year": {"$gte": 2020, "$lte": 2020}}, {"tags": {"$eq": "b"}}]}, metadata)
    assert not holds({"$or": [{"flag": {"$eq": 1}}, {"numbers": {"$gte": 1}}, {"none": {"$exists": True}}]}, metadata)

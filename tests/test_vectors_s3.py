"""The adapter for Amazon S3 Vectors over HTTP, with signatures checked, against moto behind `vectors_service.py`."""

import contextlib

import boto3
import pytest
from botocore.exceptions import ClientError

from conftest import MOTO_KEYS, running_moto, rust_suite
from vectors_service import VectorsService, holds

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
    with running_moto() as url:
        direct = boto3.client("s3vectors", endpoint_url=url, **MOTO_KEYS)
        direct.create_vector_bucket(vectorBucketName="anabranch-test")
        with VectorsService(int(url.rsplit(":", 1)[1])) as door:
            yield door


def test_the_adapter_conforms_over_the_wire(service):
    told = rust_suite(
        "s3_vectors", ANABRANCH_TEST_S3VECTORS_ENDPOINT=service.url, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1"
    )
    assert "ran over the wire" in told, told[-5000:]
    assert service.denied == []
    assert service.operations == OPERATIONS, "every operation of the adapter, and no other"


def test_the_door_speaks_as_the_sdk_expects(service):
    """boto3 reads what the door answers, and a wrong key is refused: so the signature check checks."""
    client = boto3.client("s3vectors", endpoint_url=service.url, **MOTO_KEYS)
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
    wrong = boto3.client("s3vectors", endpoint_url=service.url, **{**MOTO_KEYS, "aws_secret_access_key": "wrong"})
    with pytest.raises(ClientError, match="AccessDenied"):
        wrong.get_index(**place)
    assert service.denied == ["the signature is not botocore's"]


def test_filters_are_read_strictly():
    metadata = {"year": 2020, "tags": ["a", "b"], "flag": True, "numbers": [1, 2]}
    assert holds({"$and": [{"year": {"$gte": 2020, "$lte": 2020}}, {"tags": {"$eq": "b"}}]}, metadata)
    assert not holds({"$or": [{"flag": {"$eq": 1}}, {"numbers": {"$gte": 1}}, {"none": {"$exists": True}}]}, metadata)

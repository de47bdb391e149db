"""Everything on S3: raw files, lake, models and delivered lists in buckets, the state on disk. moto's server stands in."""

import json
import subprocess

import boto3
import pytest

from conftest import MOTO_KEYS, decompress, environment, running_moto, rust_suite
from journeys import SHOP_CUT_OVER, anabranch, run


@pytest.fixture
def s3():
    with running_moto() as url:
        client = boto3.client("s3", endpoint_url=url, **MOTO_KEYS)
        for bucket in ("raw", "lake", "lists"):
            client.create_bucket(Bucket=bucket)
        yield client, {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "ANABRANCH__PLACES__LAKE": "s3://lake/shop",
            "ANABRANCH__PLACES__DELIVERED": "s3://lists/live",
        }


def test_the_adapter_conforms():
    with running_moto() as url:
        boto3.client("s3", endpoint_url=url, **MOTO_KEYS).create_bucket(Bucket="anabranch-test")
        rust_suite("s3", ANABRANCH_TEST_S3_ENDPOINT=url, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")


def keys(client, bucket, prefix):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def test_the_whole_way_on_s3(s3, tmp_path):
    client, settings = s3
    home = tmp_path / "home"
    run(anabranch(home, "generate", "--out", tmp_path / "raw"))
    for path in (tmp_path / "raw").iterdir():
        client.upload_file(str(path), "raw", f"shop/{path.name}")

    def command(*arguments):
        return run(anabranch(home, *arguments), **settings)

    report = json.loads(command("--json", "etl", "--data", "s3://raw/shop", "--until", SHOP_CUT_OVER))
    local = json.loads(
        run(anabranch(tmp_path / "local", "--json", "etl", "--data", tmp_path / "raw", "--until", SHOP_CUT_OVER))
    )
    assert report["interactions"] == local["interactions"]
    assert report["quarantined_by_reason"] == local["quarantined_by_reason"]
    command("train", "--no-evaluate", "--no-embeddings")
    assert keys(client, "lake", "shop/models/pointers/")

    replayed = json.loads(command("--json", "replay", "--data", tmp_path / "raw", "--from", SHOP_CUT_OVER))
    counts = replayed["counts"]
    assert counts["accepted"] == counts["delivered"] + counts["duplicate"] + counts["late"] > 10_000
    lists = [
        json.loads(line)
        for key in keys(client, "lists", "live/recommendations/")
        for line in decompress(client.get_object(Bucket="lists", Key=key)["Body"].read()).splitlines()
    ]
    assert len(lists) == len({record["recommendationId"] for record in lists}) == counts["delivered"]
    # A second replay finds its position and the chain: nothing is delivered again.
    again = json.loads(command("--json", "replay", "--data", tmp_path / "raw", "--from", SHOP_CUT_OVER))
    assert (again["appended"], again["counts"]["delivered"]) == (0, 0)


def test_a_bucket_that_is_not_there_says_so(s3, tmp_path):
    _, settings = s3
    settings = {**settings, "ANABRANCH__PLACES__LAKE": "s3://nowhere/x"}
    run(anabranch(tmp_path, "generate", "--rows", "1000", "--out", tmp_path / "raw"))
    done = subprocess.run(
        anabranch(tmp_path, "etl", "--data", tmp_path / "raw"), env=environment(**settings), capture_output=True, text=True,
        check=False,
    )
    assert done.returncode not in (0, 70, 101), done.stderr
    assert "nowhere" in done.stderr

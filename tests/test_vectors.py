"""`[vectors]`: the command, the wheel and the nightly job on vector databases of every kind, and that it makes no difference which."""

import json
import os
import shutil
import subprocess
import sys

import boto3
import numpy as np
import pytest

from conftest import MOTO_KEYS, ROOT, environment, running_moto
from journeys import SHOP_CUT_OVER, anabranch, run
from test_vectors_postgres import PASSWORD, server  # noqa: F401 - a fixture
from test_vectors_s3 import service  # noqa: F401 - a fixture

wheel = pytest.importorskip("anabranch", reason="the wheel is not installed: `make test` builds it")

USER = "user-1"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A home with a dataset, a model and its embedded vectors."""
    home = tmp_path_factory.mktemp("shop") / "home"
    run(anabranch(home, "generate", "--out", home.parent / "raw"))
    run(anabranch(home, "etl", "--data", home.parent / "raw", "--until", SHOP_CUT_OVER))
    run(anabranch(home, "train", "--no-evaluate"))
    return home


@pytest.fixture(params=["postgres", "s3-vectors"])
def database(request):
    """Variables of the environment that name a database, empty or from the test before."""
    if request.param == "postgres":
        url = request.getfixturevalue("server").url
        return {"ANABRANCH__VECTORS__KIND": "postgres", "ANABRANCH__VECTORS__POSTGRES__URL": url}
    return {
        "ANABRANCH__VECTORS__KIND": "s3-vectors",
        "ANABRANCH__VECTORS__S3__BUCKET": "anabranch-test",
        "ANABRANCH__VECTORS__S3__ENDPOINT_URL": request.getfixturevalue("service").url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }


def table(variables):
    """The same as the table `[vectors]`."""
    tree = {}
    for name, value in variables.items():
        if name.startswith("ANABRANCH__VECTORS__"):
            place, *path = tree, *name.lower().split("__")[2:]
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = value
    return {"vectors": tree}


def similar(home, *arguments, **variables):
    return json.loads(run(anabranch(home, "--json", "similar", *arguments), **variables))


def copy_of(shop, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(shop, home)
    return home


def test_every_database_answers_as_the_embedded_one(shop, tmp_path, database, monkeypatch):
    home = copy_of(shop, tmp_path)
    shutil.rmtree(home / "vectors")
    trained = json.loads(run(anabranch(home, "--json", "train", "--no-evaluate"), **database))
    assert not (home / "vectors").exists(), "nothing is embedded"
    version = trained["version"]
    for item in ("item-1", "item-17", "item-200"):
        for filters in ([], ["--category", "Kitchen"]):
            expected = similar(shop, "--item", item, "-n", "20", *filters)
            assert len(expected) >= 5
            assert similar(home, "--item", item, "-n", "20", *filters, **database) == expected, "the same items with the same scores"

    for name, value in database.items():
        monkeypatch.setenv(name, value)
    asked = wheel.VectorDatabase(table(database))
    embedded = wheel.VectorDatabase(folder=shop / "vectors", read_only=True)
    assert asked.count("items", version) == embedded.count("items", version) == trained["itemEmbeddings"] > 100
    assert asked.count("users", version) == trained["userEmbeddings"]
    assert [record[0] for record in asked.scan("items", version)] == [record[0] for record in embedded.scan("items", version)]
    for (_, ours, fields), (_, theirs, same) in zip(asked.scan("items", version), embedded.scan("items", version)):
        assert ours.tobytes() == theirs.tobytes() and fields == same
    vector, _ = asked.get("users", version, USER)
    by_product, scores = asked.search("items", version, vector, 10, metric="dot")
    expected, exact = embedded.search("items", version, vector, 10, metric="dot")
    assert by_product == expected and scores.tobytes() == exact.tobytes()

    # The user is forgotten in every version, items stay.
    run(anabranch(home, "forget", "--user", USER), **database)
    assert asked.get("users", version, USER) is None
    assert asked.count("users", version) == trained["userEmbeddings"] - 1
    assert asked.count("items", version) == trained["itemEmbeddings"]

    # Not more versions than are kept, the current one among them whatever its digest is.
    for dim in (8, 12, 20):
        run(anabranch(home, "train", "--no-evaluate", "--no-promote"), ANABRANCH__MODEL__IALS__DIM=str(dim), **database)
    assert version in asked.versions("items") and len(asked.versions("items")) == 2
    assert similar(home, "--item", "item-1", **database)


def test_the_wheel_says_what_is_wrong(tmp_path):
    for settings, part in [
        ({"vectors": {"kind": "postgres"}}, "postgres.url is empty"),
        ({"vectors": {"kind": "oracle"}}, "oracle"),
        ({"vectors": {"kind": "postgres", "postgres": {"url": "postgres://db/shop"}}}, "names no user"),
        ("[vectors", "settings"),
        ({}, "no folder"),
    ]:
        with pytest.raises(wheel.InputError, match=part):
            wheel.VectorDatabase(settings)
    database = wheel.VectorDatabase(folder=tmp_path / "vectors")
    rows = np.eye(3, dtype=np.float32)
    database.upsert("items", "1", ["a", "b", "c"], rows, [{"n": 1}, {"n": 2}, {"tags": ["x", "y"]}])
    assert database.search("items", "1", [1.0, 0.0, 0.0], 2, filter={"range": {"field": "n", "min": 2}})[0] == ["b"]
    assert database.search("items", "1", [1.0, 0.0, 0.0], 2, filter={"eq": {"field": "tags", "value": "y"}})[0] == ["c"]
    with pytest.raises(wheel.InputError, match="give as many of each"):
        database.upsert("items", "1", ["a"], rows)
    with pytest.raises(wheel.InputError, match="zero"):
        database.upsert("items", "1", ["a"], np.zeros((1, 3), np.float32))
    with pytest.raises(wheel.InputError, match="filter"):
        database.search("items", "1", [1.0, 0.0, 0.0], filter={"like": "x"})
    with pytest.raises(wheel.InputError, match="cosine or dot"):
        database.search("items", "1", [1.0, 0.0, 0.0], metric="euclid")
    with pytest.raises(wheel.NotFoundError):
        database.search("items", "2", [1.0, 0.0, 0.0])
    assert database.delete("items", "1", ["a", "nobody"]) == 1
    assert database.drop_version("items", "1") and not database.drop_version("items", "1")


@pytest.fixture
def secrets():
    """moto's Secrets Manager."""
    with running_moto() as url:
        yield boto3.client("secretsmanager", endpoint_url=url, **MOTO_KEYS), url


def test_the_password_may_lie_in_a_secret(shop, tmp_path, server, secrets):  # noqa: F811
    client, url = secrets
    home = copy_of(shop, tmp_path)

    def variables(secret):
        arn = client.create_secret(Name=f"db-{len(secret)}", SecretString=secret)["ARN"]
        return {
            "ANABRANCH__VECTORS__KIND": "postgres",
            "ANABRANCH__VECTORS__POSTGRES__URL": f"postgres://127.0.0.1:{server.port}/postgres",
            "ANABRANCH__VECTORS__POSTGRES__SCHEMA": "by_secret",
            "ANABRANCH__VECTORS__POSTGRES__SECRET_ARN": arn,
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    right = variables(json.dumps({"username": "remote", "password": PASSWORD}))
    run(anabranch(home, "train", "--no-evaluate"), **right)
    assert similar(home, "--item", "item-1", **right) == similar(shop, "--item", "item-1")
    for secret, part in [(json.dumps({"username": "remote", "password": "wrong"}), "password"), ("plain", "no JSON object")]:
        command = anabranch(home, "similar", "--item", "item-1")
        done = subprocess.run(command, env=environment(**variables(secret)), capture_output=True, text=True, check=False)
        assert done.returncode != 0 and part in done.stderr and PASSWORD not in done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java: Spark needs a runtime (Debian: apt install openjdk-17-jre-headless)")
@pytest.mark.parametrize("driver_max", ["1000000000", "0"])
def test_the_nightly_job_fills_the_database_before_it_promotes(shop, tmp_path, server, driver_max):  # noqa: F811
    schema = f"night_{len(driver_max)}"
    settings = tmp_path / "anabranch.toml"
    settings.write_text(
        f'[model.ials]\ndim = 16\niterations = 2\n[vectors]\nkind = "postgres"\n[vectors.postgres]\nurl = "{server.url}"\nschema = "{schema}"\n'
    )
    submit = "--master local[2] --conf spark.ui.enabled=false --conf spark.driver.bindAddress=127.0.0.1 --conf spark.driver.host=127.0.0.1 pyspark-shell"

    def night():
        command = [
            sys.executable, ROOT / "scripts" / "glue_job.py", "--raw", shop.parent / "raw", "--lake", tmp_path / "lake", "--settings", settings,
            "--driver-interactions-max", driver_max, "--bulk", "false", "--partitions", "3",
        ]
        done = subprocess.run(
            [os.fspath(part) for part in command], env=environment(PYSPARK_SUBMIT_ARGS=submit, PYSPARK_PYTHON=sys.executable),
            capture_output=True, text=True, check=False,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads(done.stdout.splitlines()[-1])

    told = night()
    assert told["isPromoted"]
    database = wheel.VectorDatabase(settings.read_text())
    lake = wheel.Lake(tmp_path / "lake")
    loaded = json.loads(lake.get(f"embeddings/{told['version']}/loaded.json"))["rows"]
    assert {name: database.count(name, told["version"]) for name in loaded} == loaded
    assert loaded["items"] > 100 and loaded["users"] > 1000
    model = wheel.Registry(lake).open(tmp_path / "cache", told["version"])
    place = model.item_ids.index("item-1")
    assert database.get("items", told["version"], "item-1")[0].tobytes() == np.asarray(model.item_factors)[place].tobytes()

    # A second night finds all of it there; what was lost comes back.
    database.drop_version("items", told["version"])
    assert night()["version"] == told["version"]
    assert database.count("items", told["version"]) == loaded["items"]

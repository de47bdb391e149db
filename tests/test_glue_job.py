"""The nightly job on local Spark: the dataset and the model of the local commands, to the bit, whatever the partitions; what a kill, a failure, a
repetition and a worse model leave behind."""

import ctypes
import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zipimport
from pathlib import Path
from types import SimpleNamespace

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard

from conftest import BINARY, ROOT, environment, wait_until
from journeys import DATA, anabranch as command
from journeys import run

pytest.importorskip("pyspark", reason="pyspark is not installed: tests/requirements.txt names it")
wheel = pytest.importorskip("anabranch", reason="the wheel is not installed: `make test` builds it")
if shutil.which("java") is None:
    pytest.skip("no Java: Spark needs a runtime (Debian: apt install openjdk-17-jre-headless)", allow_module_level=True)

from pyspark.sql import Row, SparkSession  # noqa: E402

from anabranch import spark as _  # noqa: E402, F401 - the package is whole
from anabranch.spark import etl, ials, lists, neighbours, rows, sharing  # noqa: E402

SCRIPT = ROOT / "scripts" / "glue_job.py"
SETTINGS = """
[model.ials]
dim = 16
iterations = 4
[etl]
bot_events_per_day_max = 2000
k_core_users = 2
k_core_items = 2
"""
LOCAL = {
    "spark.master": "local[2]", "spark.ui.enabled": "false", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4", "spark.driver.memory": "2g", "spark.driver.maxResultSize": "0",
}


def load_job():
    spec = importlib.util.spec_from_file_location("glue_job", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["glue_job"] = module
    spec.loader.exec_module(module)
    return module


job = load_job()


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder = SparkSession.builder.appName("anabranch-tests")
    for name, value in {**LOCAL, "spark.local.dir": os.fspath(tmp_path_factory.mktemp("spark"))}.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The generated shop's raw files."""
    folder = tmp_path_factory.mktemp("shop")
    run(command(folder / "home", "generate", "--out", folder / "raw"))
    return folder / "raw"


@pytest.fixture(scope="module")
def few(shop, tmp_path_factory):
    """A tenth of the shop's users, for what needs many nights."""
    folder = tmp_path_factory.mktemp("few")
    shutil.copy2(shop / "items.jsonl", folder)
    for path in sorted(shop.glob("interactions*.csv")):
        head, *lines = path.read_text(errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if line.split(",", 1)[0].endswith("7")]
        assert kept, "no user's id ends with 7"
        # And a row that is refused.
        (folder / path.name).write_text(head + "".join(kept) + "user-7\n")
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "anabranch.toml"
    path.write_text(SETTINGS)
    return path


def locally(raw, settings, home):
    """What the local commands make of raw files: home and what training told."""
    run(command(home, "--config", settings, "etl", "--data", raw))
    told = json.loads(run(command(home, "--config", settings, "--json", "train", "--no-embeddings")))
    return home, told


@pytest.fixture(scope="module")
def local(shop, settings, tmp_path_factory):
    return locally(shop, settings, tmp_path_factory.mktemp("local") / "home")


@pytest.fixture(scope="module")
def local_few(few, settings, tmp_path_factory):
    return locally(few, settings, tmp_path_factory.mktemp("local-few") / "home")


def arguments(raw, lake, settings, **more):
    named = {"raw": raw, "lake": lake, "settings": settings, "JOB_NAME": "nightly", "TempDir": "unknown to us", **more}
    return [text for name, value in named.items() for text in (f"--{name.replace('_', '-') if name[0].islower() else name}", str(value))]


def night(*args, **more):
    """One run of the job in this process."""
    return job.main(arguments(*args, **{"partitions": 2, **more}))


# ------------------------------------------------------------------------------------------------- reading what was published


def manifest(lake):
    return json.loads(max((Path(lake) / "manifests").iterdir()).read_text())


def files(lake, kind):
    return [Path(lake) / file["path"] for file in manifest(lake)["files"] if file["kind"] == kind]


def table_rows(lake, kind):
    """All rows of a kind of files, in an order that does not depend on how they were cut into files."""
    found = []
    for path in files(lake, kind):
        table = pq.ParquetFile(path).read()
        found += list(zip(*(table.column(name).to_pylist() for name in table.schema.names))) if table.num_rows else []
    return sorted(found, key=repr)


def histories(lake):
    found = {}
    for batch in wheel.Dataset(os.fspath(lake)).histories():
        found.update(zip(batch.column("key").to_pylist(), batch.column("history").to_pylist()))
    return found


def quarantine(lake):
    """Every entry, in the order in which the files' numbers put them."""
    ordered = sorted(files(lake, "quarantine"), key=lambda path: path.name.rsplit("-", 1)[-1])
    text = b"".join(zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read() for path in ordered)
    return [json.loads(line) for line in text.splitlines()]


def assert_same_dataset(theirs, ours):
    assert manifest(ours)["report"] == manifest(theirs)["report"]
    for kind in ("interactions", "catalog", "users"):
        assert table_rows(ours, kind) == table_rows(theirs, kind), kind
    assert quarantine(ours) == quarantine(theirs)
    assert histories(ours) == histories(theirs)


def tree(folder):
    """Every file below a folder with its digest, to tell that nothing changed."""
    folder = Path(folder)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    }


def pointers(lake):
    return tree(Path(lake) / "models" / "pointers")


# ------------------------------------------------------------------------------------------------------------------ parity


def test_the_shop_is_what_the_local_etl_makes_of_it(spark, shop, local, tmp_path):
    partitions = 5
    plan = wheel.plan_etl(os.fspath(shop), os.fspath(tmp_path / "lake"), settings=wheel.Settings(SETTINGS))
    told = etl.run(spark, plan, partitions)
    assert told["published"] == "new"
    assert_same_dataset(local[0] / "lake", tmp_path / "lake")
    assert quarantine(tmp_path / "lake"), "the shop has bad rows, or this compares nothing"
    again = etl.run(spark, plan, partitions)
    assert (again["published"], again["number"]) == ("unchanged", told["number"])


@pytest.fixture(scope="module")
def journey(spark, tmp_path_factory):
    """Complete Journey through the local ETL and through Spark: both lakes."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not there")
    folder = tmp_path_factory.mktemp("journey")
    mapping = ROOT / "examples" / "completejourney.toml"
    run(command(folder / "home", "etl", "--data", DATA, "--mapping", mapping))
    plan = wheel.plan_etl(os.fspath(DATA), os.fspath(folder / "lake"), mapping=mapping.read_text())
    etl.run(spark, plan, 6)
    return folder / "home" / "lake", folder / "lake"


def test_complete_journey_is_what_the_local_etl_makes_of_it(journey):
    theirs, ours = journey
    assert manifest(ours)["report"] == manifest(theirs)["report"]
    assert histories(ours) == histories(theirs)
    assert quarantine(ours) == quarantine(theirs)
    # A million and a half rows: by day, sorted by columns, without making Python objects of them.
    for day in sorted({path.parent.name for path in files(theirs, "interactions")}):
        one, other = (
            sorted_table([path for path in files(lake, "interactions") if path.parent.name == day]) for lake in (theirs, ours)
        )
        assert other.equals(one), day
    assert table_rows(ours, "catalog") == table_rows(theirs, "catalog")
    assert table_rows(ours, "users") == table_rows(theirs, "users")


def sorted_table(paths):
    import pyarrow as pa

    table = pa.concat_tables([pq.ParquetFile(path).read() for path in paths]).combine_chunks()
    return table.sort_by([(name, "ascending") for name in ("user_id", "session_id", "time_ms", "event_id", "item_id")])


def trainer_of(spark, lake, settings, partitions, share_bytes=1 << 30, gramian_bytes=rows.GRAMIAN_BYTES):
    """A dataset's distributed trainer."""
    dataset = wheel.Dataset(os.fspath(lake))
    core = tuple(dataset.report["settings"][name] for name in ("k_core_users", "k_core_items"))
    made = rows.k_core(rows.rows_of(spark, dataset, settings, partitions), *core)
    work = ials.work_folder(made, settings, core)
    blocks = rows.blocks_of(spark, made, partitions, settings.ials["dim"], gramian_bytes)
    return ials.Trainer(spark, dataset.lake, blocks, settings.ials, work, share_bytes)


def local_rows(lake, settings):
    """A dataset's training rows from one machine."""
    made = wheel.training_rows(os.fspath(lake), settings)
    return made.index, (made.indptr, made.indices, made.data)


def test_complete_journeys_factors_are_the_local_trainers(spark, journey):
    settings = wheel.Settings({"model": {"ials": {"dim": 8, "iterations": 1}}})
    index, csr = local_rows(journey[0], settings)
    _, items, gramian = wheel.train_ials(csr, index.ids, settings.ials)
    trainer = trainer_of(spark, journey[1], settings, 2)
    found = trainer.run()
    trainer.release()
    trainer.finish()
    assert (trainer.blocks.entry_count, trainer.blocks.index.ids) == (len(csr[2]), index.ids)
    assert np.array_equal(found.items, items) and np.array_equal(found.gramian, gramian)


def test_factors_do_not_depend_on_what_is_shared_and_how_users_are_cut(spark, local_few):
    """Blocks of users that are whole groups of the Gramian's sum, with everything broadcast; more partitions than users' blocks."""
    settings = wheel.Settings(SETTINGS)
    lake = local_few[0] / "lake"
    index, csr = local_rows(lake, settings)
    _, items, gramian = wheel.train_ials(csr, index.ids, settings.ials)
    trainer = trainer_of(spark, lake, settings, 2, gramian_bytes=0)
    assert trainer.blocks.is_grouped and trainer.blocks.user_rows == rows.GROUP_ROWS
    found = trainer.run()
    trainer.release()
    trainer.finish()
    assert np.array_equal(found.items, items) and np.array_equal(found.gramian, gramian)
    assert not tree(lake / "training")


def test_trainings_in_one_application_do_not_meet(spark, local_few):
    """Executors keep the rows of all users in files; a second training mapped those of the first. Also with rows capped so that columns of items
    are cut, some of them to nothing."""
    settings = wheel.Settings(SETTINGS)
    lake = local_few[0] / "lake"
    index, csr = local_rows(lake, settings)
    trainer = trainer_of(spark, lake, settings, 3)
    for row_cap in (10_000, 2):
        neighbourhood = {**settings.to_dict()["model"]["neighbours"], "row_cap": row_cap}
        another = dataclasses.replace(trainer, run_id=str(row_cap))
        ours, theirs = neighbours.neighbours_of(another, neighbourhood, 3), wheel.neighbours(csr, len(index), neighbourhood)
        assert all(np.array_equal(mine, expected) for mine, expected in zip(ours, theirs)), row_cap
        assert sharing.kept_folder(another.key).is_dir()
        sharing.let_go(spark, another.key)
        assert not sharing.kept_folder(another.key).exists()
    trainer.release()
    trainer.finish()


def test_the_work_folder_names_rows_and_settings_however_they_are_cut(spark, few, local_few, tmp_path):
    settings = wheel.Settings(SETTINGS)
    etl.run(spark, wheel.plan_etl(os.fspath(few), os.fspath(tmp_path), settings=settings), 3)

    def made_of(lake, partitions, settings=settings):
        made = rows.rows_of(spark, wheel.Dataset(os.fspath(lake)), settings, partitions)
        made.unpersist()
        return made

    mine, theirs = made_of(tmp_path, 2), made_of(local_few[0] / "lake", 5)
    heavier = made_of(tmp_path, 2, wheel.Settings({"events": {"types": {"view": {"weight": 2.0}, "cart": {"weight": 2.0}, "purchase": {"weight": 9.0}}}}))
    assert ials.work_folder(mine, settings, (2, 2)) == ials.work_folder(theirs, settings, (2, 2))
    other = wheel.Settings(SETTINGS.replace("dim = 16", "dim = 17"))
    cases = [(mine, settings, (2, 2)), (mine, other, (2, 2)), (mine, settings, (2, 3)), (heavier, settings, (2, 2))]
    assert len({ials.work_folder(*case) for case in cases}) == 4


def test_the_distributed_model_is_the_local_trainers(spark, shop, settings, local, tmp_path):
    """In seven partitions, with all factors in files and joined by blocks: the snapshot has the bytes of `anabranch train`, figures and all,
    since its version is their digest; and the lists for all users are those of `anabranch recommend --all`."""
    lake = tmp_path / "lake"
    told = night(shop, lake, settings, partitions=7, share_bytes=0, driver_interactions_max=0)
    assert told["trainedOn"] == "spark"
    assert (told["version"], told["users"], told["entries"]) == (local[1]["version"], local[1]["users"], local[1]["entries"])
    assert told["isPromoted"] and told["bulkUsers"] > 0
    assert not tree(lake / "training"), "checkpoints go once the model is published"
    check_embeddings(lake, told["version"])
    run(command(local[0], "--config", settings, "recommend", "--all"))
    assert parquet_lists(lake, told["version"]) == parquet_lists(local[0] / "lake", told["version"])
    assert json_lists(lake, told["version"]) == json_lists(local[0] / "lake", told["version"])


def parquet_lists(lake, version):
    found = {}
    for path in sorted((lake / "bulk" / version).glob("recommendations*.parquet")):
        table = pq.ParquetFile(path).read()
        for user, rank, item, score in zip(*(table.column(name).to_pylist() for name in ("user_id", "rank", "item_id", "score"))):
            found[user, rank] = (item, score)
    return found


def json_lists(lake, version):
    found = {}
    for path in sorted((lake / "bulk" / version).glob("recommendations*.jsonl.zst")):
        for line in zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True).read().splitlines():
            record = json.loads(line)
            found[record["input"]["userId"]] = record
    return found


def test_on_spark_and_on_the_driver_it_is_the_local_model(spark, few, settings, local_few, tmp_path):
    """In two partitions with everything broadcast, and below the threshold on the driver alone."""
    for limit, how in ((0, "spark"), (10_000_000, "driver")):
        lake = tmp_path / how
        told = night(few, lake, settings, driver_interactions_max=limit, bulk="false")
        assert (told["trainedOn"], told["version"]) == (how, local_few[1]["version"])
        check_embeddings(lake, told["version"])


def check_embeddings(lake, version):
    """User embeddings are the fold-in of the users' rows against the snapshot, bit for bit."""
    written = {}
    for path in sorted((lake / "embeddings" / version).glob("users-*.parquet")):
        table = pq.ParquetFile(path).read()
        written.update(zip(table.column("id").to_pylist(), table.column("vector").to_pylist()))
    made = wheel.training_rows(os.fspath(lake), wheel.Settings(SETTINGS))
    model = wheel.Model.open(os.fspath(lake / "models" / version / "snapshot.anb"))
    folded = model.fold_in((made.indptr, made.indices, made.data))
    expected = {key[1:].decode(): row for key, row in zip(made.keys, folded) if key[:1] == b"u" and row.any()}
    assert written.keys() == expected.keys() and written
    assert all(np.array_equal(np.float32(written[user]), expected[user]) for user in expected)
    items = [pq.ParquetFile(path).read() for path in sorted((lake / "embeddings" / version).glob("items-*.parquet"))]
    places = {item: place for place, item in enumerate(model.item_ids)}
    for table in items:
        for item, vector in zip(table.column("id").to_pylist(), table.column("vector").to_pylist()):
            assert np.array_equal(np.float32(vector), model.item_factors[places[item]])


# ---------------------------------------------------------------------------------------------------- kills, failures, repeats


def test_a_repeated_night_changes_nothing(spark, few, settings, tmp_path):
    lake = tmp_path / "lake"
    first = night(few, lake, settings, driver_interactions_max=0)
    before = tree(lake)
    second = night(few, lake, settings, driver_interactions_max=0)
    assert (second["published"], second["version"]) == ("unchanged", first["version"])
    assert tree(lake) == before


def spawn(args, log, script=SCRIPT, **more):
    """The job as a program of its own, as Glue runs it."""
    settings = environment(PYSPARK_PYTHON=sys.executable, PYSPARK_SUBMIT_ARGS=" ".join(
        f"--conf {name}={value}" for name, value in {**LOCAL, **more}.items()) + " pyspark-shell")
    return subprocess.Popen([sys.executable, script, *args], env=settings, stdout=subprocess.PIPE, stderr=log.open("wb"), start_new_session=True)


# The job, whose first tasks of each kind fail once: after their work, when the first of what they give is asked for.
FAILING = """
import sys
sys.path.insert(0, {scripts!r})
import glue_job
from pyspark import TaskContext
from anabranch.spark import etl, ials, lists, neighbours


def fails_once(make):
    def made(*args):
        run = make(*args)
        def task(batches):
            for batch in run(batches):
                if TaskContext.get().attemptNumber() == 0 and TaskContext.get().partitionId() == 0:
                    raise RuntimeError(make.__name__ + " fails once")
                yield batch
        return task
    return made


for module, names in ((etl, "map_files fold write_quarantine"), (ials, "solve_users solve_items"), (neighbours, "leave_rows make_lists"),
                      (lists, "solve_and_write")):
    for name in names.split():
        setattr(module, name, fails_once(getattr(module, name)))
glue_job.main()
"""


def test_tasks_that_fail_are_tried_again_and_leave_what_they_would_have_left(few, settings, local_few, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(scripts=os.fspath(SCRIPT.parent)))
    args = arguments(few, tmp_path / "lake", settings, driver_interactions_max=0, bulk="false", partitions=2, share_bytes=0)
    process = spawn(args, tmp_path / "failing.log", script, **{"spark.master": "local[2,3]"})
    out = process.communicate(timeout=300)[0]
    log = (tmp_path / "failing.log").read_text()
    assert process.returncode == 0, log[-4000:]
    told = json.loads(out.splitlines()[-1])
    assert (told["version"], told["trainedOn"]) == (local_few[1]["version"], "spark")
    names = "map_files fold write_quarantine solve_users solve_items leave_rows make_lists solve_and_write".split()
    assert [name for name in names if f"{name} fails once" not in log] == []
    assert_same_dataset(local_few[0] / "lake", tmp_path / "lake")
    check_embeddings(tmp_path / "lake", told["version"])


def test_a_job_killed_in_training_goes_on_after_its_last_iteration(spark, few, settings, tmp_path):
    lake = tmp_path / "lake"
    longer = tmp_path / "longer.toml"
    longer.write_text(settings.read_text().replace("iterations = 4", "iterations = 8"))
    args = arguments(few, lake, longer, driver_interactions_max=0, bulk="false", embeddings="false", partitions=2)
    process = spawn(args, tmp_path / "killed.log")

    def checkpoints():
        assert process.poll() is None, (tmp_path / "killed.log").read_text()[-4000:]
        return [path for path in lake.glob("training/*/checkpoints/*.f32") if int(path.name[:6]) >= 2]

    wait_until("two iterations are kept", checkpoints, 180)
    os.killpg(process.pid, 9)
    process.wait()
    assert not (lake / "models").exists(), "killed before anything was published"
    told = night(few, lake, longer, driver_interactions_max=0, bulk="false", embeddings="false", partitions=5)
    assert told["resumedFrom"] >= 2
    assert told["version"] == locally(few, longer, tmp_path / "home")[1]["version"]


def test_a_run_that_fails_half_way_leaves_the_current_model(spark, few, settings, tmp_path, monkeypatch):
    lake = tmp_path / "lake"
    night(few, lake, settings, bulk="false", embeddings="false")
    before = pointers(lake)
    other = tmp_path / "other.toml"
    other.write_text(settings.read_text().replace("dim = 16", "dim = 17"))

    def full(*_, **__):
        raise OSError("no space left")

    for module, name in ((lists, "bulk"), (ials.Trainer, "iterate"), (etl, "run")):
        with monkeypatch.context() as broken:
            broken.setattr(module, name, full)
            with pytest.raises(OSError, match="no space"):
                night(few, lake, other, driver_interactions_max=0, embeddings="false", min_improvement=-1)
        assert pointers(lake) == before, name
        if module is lists:
            # What was trained stays until the night is over.
            kept = [path for path, _, _ in wheel.Lake(os.fspath(lake)).list("training")]
            assert [path for path in kept if "/checkpoints/000004-" in path], kept
            told = night(few, lake, other, driver_interactions_max=0, bulk="false", embeddings="false", promote="false")
            assert told["resumedFrom"] == 4 and not wheel.Lake(os.fspath(lake)).list("training")

    # A file that cannot be read ends the run before training, unless that is accepted; the dataset before stays.
    broken = tmp_path / "broken"
    shutil.copytree(few, broken)
    (broken / "interactions-9.csv.gz").write_bytes(b"\x1f\x8b no gzip at all")
    number = wheel.Dataset(os.fspath(lake)).number
    with pytest.raises(SystemExit, match="keep-going"):
        night(broken, lake, settings)
    assert pointers(lake) == before and wheel.Dataset(os.fspath(lake)).number == number
    assert night(broken, lake, settings, keep_going="true", bulk="false")["dataset"] == number + 1


def test_a_worse_model_is_published_and_not_promoted(spark, few, settings, tmp_path):
    lake = tmp_path / "lake"
    good = night(few, lake, settings, bulk="false", embeddings="false")
    assert good["isPromoted"] and "no current model" in good["reason"]
    worse = tmp_path / "worse.toml"
    # Factors as they start, and nothing beside them: lists at random.
    worse.write_text(
        settings.read_text().replace("dim = 16", "dim = 1").replace("iterations = 4", "iterations = 0")
        + "[model.blend]\nneighbours = 0\nhistory = 0\npopularity = 0\n"
    )
    before = pointers(lake)
    bad = night(few, lake, worse, embeddings="false")
    assert not bad["isPromoted"] and "is below" in bad["reason"] and bad["bulkUsers"] is None
    assert pointers(lake) == before
    assert {entry["version"] for entry in wheel.Registry(os.fspath(lake)).list()} == {good["version"], bad["version"]}
    # Asked for, it is promoted; and rolled back by the job.
    assert night(few, lake, worse, bulk="false", embeddings="false", min_improvement=-1)["isPromoted"]
    assert night(few, lake, worse, rollback="true") == {"rolledBackTo": good["version"]}
    assert wheel.Registry(os.fspath(lake)).current()["version"] == good["version"]
    # `--promote false` publishes only.
    other = tmp_path / "other.toml"
    other.write_text(settings.read_text().replace("dim = 16", "dim = 24"))
    assert not night(few, lake, other, bulk="false", embeddings="false", promote="false", min_improvement=-1)["isPromoted"]


def test_an_incremental_run_is_a_whole_run(spark, few, tmp_path):
    """A part of the files, then the rest: the dataset is that of all at once, repeats across the border among it."""
    raw, lake, whole = tmp_path / "raw", tmp_path / "lake", tmp_path / "whole"
    raw.mkdir()
    files = sorted(few.glob("interactions*"))
    later = files[1:]
    for path in few.iterdir():
        if path not in later:
            shutil.copy2(path, raw)
    as_of_ms = 1_735_689_600_000

    def plan(folder, **more):
        return wheel.plan_etl(os.fspath(raw), os.fspath(folder), settings=wheel.Settings(SETTINGS), as_of_ms=as_of_ms, **more)

    etl.run(spark, plan(lake), 3)
    for path in later:
        shutil.copy2(path, raw)
    # Rows of an old file once more, in a new one.
    old = files[0].read_bytes().splitlines(keepends=True)
    (raw / "interactions-again.csv").write_bytes(old[0] + b"".join(old[1::7]))
    held = wheel.Dataset(os.fspath(lake))
    known = job.known_files(held.report)
    assert len(known) == 1
    more = plan(lake, incremental=True, keep=lambda file: file.table != "interactions" or (file.name, file.size) not in known)
    assert [file.name for file in more.files if file.table == "interactions"] == [*(path.name for path in later), "interactions-again.csv"]
    assert etl.run(spark, more, 4, more.base)["published"] == "new"
    etl.run(spark, plan(whole), 2)
    ours, theirs = manifest(lake)["report"], manifest(whole)["report"]
    assert ours["interactions"]["duplicates"] > len(old) // 8
    assert {**ours, "files": sorted_files(ours)} == {**theirs, "files": sorted_files(theirs)}
    for kind in ("interactions", "catalog", "users"):
        assert table_rows(lake, kind) == table_rows(whole, kind), kind
    assert histories(lake) == histories(whole)
    assert sorted(map(repr, quarantine(lake))) == sorted(map(repr, quarantine(whole)))


def job_of(raw, lake, settings, **more):
    """The job, as `main` makes it."""
    return job.Job.of(job.parse(arguments(raw, lake, settings, incremental="true", **more)))


def test_what_an_incremental_night_reads(spark, few, settings, tmp_path):
    """The first night everything; then nothing as long as nothing is new; items that were replaced; files of which rows were left to the
    stream, as the cut-over moves on, and everything when it goes back. Each time the dataset is that of a run over everything."""
    raw, lake = tmp_path / "raw", tmp_path / "lake"
    shutil.copytree(few, raw)
    newest = sorted(raw.glob("interactions*"))[-1]
    newest.rename(tmp_path / newest.name)
    nights = 0

    def night_of(**more):
        nonlocal nights
        nights += 1
        told = job.etl(spark, job_of(raw, lake, settings, **more))
        whole = tmp_path / f"whole-{nights}"
        job.etl(spark, job_of(raw, whole, settings, **more))
        ours, theirs = manifest(lake)["report"], manifest(whole)["report"]
        assert {**ours, "until_ms": None} == {**theirs, "until_ms": None}, more
        assert histories(lake) == histories(whole) and table_rows(lake, "interactions") == table_rows(whole, "interactions"), more
        return told["published"], ours

    days = sorted({path.parent.name.removeprefix("day=") for path in files_of_whole(spark, raw, tmp_path)})
    early, late = days[len(days) // 3], days[2 * len(days) // 3]
    published, report = night_of(until=early)
    assert published == "new" and report["filtered_by_reason"]["after-cut-over"] > 0
    assert night_of(until=early)[0] == "unchanged"
    published, report = night_of(until=late)
    assert published == "new" and 0 < report["filtered_by_reason"]["after-cut-over"]
    published, report = night_of()
    assert published == "new" and report["filtered_by_reason"]["after-cut-over"] == 0
    assert night_of()[0] == "unchanged"
    # Nothing new among the interactions, and other items.
    items = (raw / "items.jsonl").read_text().splitlines(keepends=True)
    (raw / "items.jsonl").write_text("".join(items[1:]))
    published, report = night_of()
    assert published == "new" and report["items"]["read"] == len(items) - 1
    (tmp_path / newest.name).rename(newest)
    assert night_of()[0] == "new"
    # Back: what is after the cut-over cannot be taken out of histories, so everything is read.
    published, report = night_of(until=early)
    assert published == "new" and report["last_day"] <= early


def files_of_whole(spark, raw, tmp_path):
    """The files of interactions that these raw files make."""
    etl.run(spark, wheel.plan_etl(os.fspath(raw), os.fspath(tmp_path / "days"), settings=wheel.Settings(SETTINGS)), 1)
    return files(tmp_path / "days", "interactions")


def test_a_failure_that_was_accepted_does_not_hold_back_the_nights_after(spark, few, settings, tmp_path):
    raw, lake = tmp_path / "raw", tmp_path / "lake"
    shutil.copytree(few, raw)
    bad = raw / "interactions-9.csv.gz"
    bad.write_bytes(b"\x1f\x8b no gzip at all")
    job.etl(spark, job_of(raw, lake, settings, keep_going="true"))
    with pytest.raises(SystemExit, match="1 file.*interactions-9"):
        job.etl(spark, job_of(raw, lake, settings))
    bad.unlink()
    (raw / "interactions-8.csv").write_bytes(sorted(few.glob("interactions*"))[0].read_bytes())
    assert job.etl(spark, job_of(raw, lake, settings))["published"] == "new"
    assert [line["file"] for line in manifest(lake)["report"]["files"] if line.get("failed")] == [bad.name]


def test_a_wrong_mapping_ends_as_the_local_etl_does(spark, tmp_path, monkeypatch):
    """Every row is refused, with itself in the quarantine: megabytes for each record, of which a batch may hold only so many."""
    raw = tmp_path / "raw"
    raw.mkdir()
    row = f"u,i,1600000000,ogle,{'x' * 30_000}\n"
    (raw / "interactions.csv").write_text("USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,NOTE\n" + 1_200 * row)
    monkeypatch.setattr(etl, "BATCH_BYTES", 16 << 20)
    monkeypatch.setattr(etl, "REFUSED_BYTES_PER_TASK", 16 << 20)
    lake = os.fspath(tmp_path / "lake")
    with pytest.raises(wheel.InputError) as ours:
        etl.run(spark, wheel.plan_etl(os.fspath(raw), lake), 2)
    with pytest.raises(wheel.InputError) as theirs:
        wheel.run_etl(os.fspath(raw), tmp_path / "local")
    assert str(ours.value) == str(theirs.value) and "unknown-event-type" in str(ours.value)
    with pytest.raises(wheel.NotFoundError):
        wheel.Dataset(lake)
    # With one good row the dataset is there, and its quarantine is the local one's.
    with (raw / "interactions.csv").open("a") as file:
        file.write("u,i,1600000000,view,\n")
    assert etl.run(spark, wheel.plan_etl(os.fspath(raw), lake), 2)["published"] == "new"
    wheel.run_etl(os.fspath(raw), tmp_path / "local")
    assert len(files(lake, "quarantine")) > 1 and quarantine(lake) == quarantine(tmp_path / "local")
    assert spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch") == "10000"


def sorted_files(report):
    return sorted(report["files"], key=lambda file: (file["table"], file["file"]))


def local_report(local):
    return manifest(local[0] / "lake")["report"]


# ---------------------------------------------------------------------------------------------------------------------- S3


def test_everything_on_s3(shop, settings, local, ministack, tmp_path):
    """Raw files, lake and models in buckets: the wheel reads and writes them, Spark has no S3 of its own here."""
    keys = {"AWS_ENDPOINT_URL": ministack, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    client = boto3.client("s3", endpoint_url=ministack, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    for bucket in ("raw", "lake", "models"):
        client.create_bucket(Bucket=bucket)
    for path in [*shop.iterdir(), settings]:
        client.upload_file(str(path), "raw", f"shop/{path.name}" if path != settings else path.name)
    log = tmp_path / "s3.log"
    args = arguments(
        "s3://raw/shop", "s3://lake/x", "s3://raw/anabranch.toml", models="s3://models", driver_interactions_max=0, share_bytes=0, partitions=2,
    )
    environ = dict(os.environ)
    os.environ.update(keys)
    try:
        process = spawn(args, log)
    finally:
        os.environ.clear()
        os.environ.update(environ)
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, log.read_text()[-4000:]
    told = json.loads(out.splitlines()[-1])
    assert told["interactions"] == local_report(local)["interactions"]
    assert (told["version"], told["isPromoted"], told["trainedOn"]) == (local[1]["version"], True, "spark")
    stored = client.get_object(Bucket="models", Key=f"models/{told['version']}/snapshot.anb")["Body"].read()
    assert stored == (local[0] / "lake" / "models" / told["version"] / "snapshot.anb").read_bytes()


# ------------------------------------------------------------------------------------------------------------ the pure parts


def test_the_verdict():
    current = {"model/seen-hidden/recall@20": 0.2, "model/seen-hidden/ndcg@20": 0.1}
    name = "model/seen-hidden/recall@20"
    assert job.verdict({name: 0.2}, current, "recall", 0.0)[0]
    assert not job.verdict({name: 0.1999}, current, "recall", 0.0)[0]
    assert job.verdict({name: 0.19}, current, "recall", -0.06)[0]
    assert not job.verdict({name: 0.209}, current, name, 0.05)[0]
    assert job.verdict({name: 0.0}, None, "recall", 0.5)[0]
    # Lists of another length have other figures: one that both have decides, else the current model stays, unless that is accepted.
    shorter = "model/seen-hidden/recall@10"
    is_better, reason = job.verdict({name: 0.9}, {shorter: 0.1}, "recall", 0.0)
    assert not is_better and f"{shorter}: set [training] cutoff back" in reason and "--promote-unmeasured" in reason
    assert job.verdict({name: 0.9, shorter: 0.1}, {shorter: 0.1}, name, 0.0) == (True, f"{shorter} 0.1000 is at least 0.1000 × 1")
    assert not job.verdict({name: 0.9, shorter: 0.09}, {shorter: 0.1}, name, 0.0)[0]
    assert not job.verdict({name: 0.9}, {"model/seen-shown/recall@20": 0.1}, name, 0.0)[0]
    is_better, reason = job.verdict({name: 0.9}, {}, "recall", 0.0)
    assert not is_better and "was not evaluated" in reason
    assert job.verdict({name: 0.0}, {}, "recall", 0.5, takes_unmeasured=True)[0]
    with pytest.raises(SystemExit, match="not evaluated"):
        job.verdict({name: 0.2}, current, "accuracy", 0.0)


def test_arguments_are_texts_and_glues_own_are_passed_over():
    parsed = job.parse(["--raw", "r", "--lake", "l", "--bulk", "False", "--JOB_NAME", "n", "--JOB_RUN_ID", "jr_1", "--TempDir", "s3://t"])
    assert (parsed.bulk, parsed.promote, parsed.job_name) == (False, True, "n")
    for wrong in (["--lake", "l"], ["--raw", "r"], ["--raw", "r", "--lake", "l", "--bulk", "yes"]):
        with pytest.raises(SystemExit):
            job.parse(wrong)
    assert job.time_ms("1512086400000") == job.time_ms("2017-12-01") == job.time_ms("2017-12-01T01:00:00+01:00") == 1_512_086_400_000


def test_freed_memory_goes_back_to_the_system():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("no glibc")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [libc.malloc(10_000) for _ in range(20_000)]
    for block in blocks:
        ctypes.memset(block, 1, 10_000)
    for block in blocks[:-1]:
        libc.free(block)
    before = resident()
    job.give_memory_back()
    assert before - resident() > 150e6
    libc.free(blocks[-1])


def test_archives_are_not_read_again_before_every_task(spark, tmp_path, monkeypatch):
    """PySpark's worker is imported from a zip, and tells every importer before a task to read its archive again."""
    def count(batches):
        found = sum(isinstance(importer, zipimport.zipimporter) for importer in sys.path_importer_cache.values())
        for batch in batches:
            yield rows.batch_of("zips int", [[found] * batch.num_rows])

    def importing(batches):
        importlib.util.find_spec("pyspark.something_new")
        return count(batches)

    frame = spark.range(0, 2, 1, 2)
    assert all(row.zips for row in frame.mapInArrow(importing, "zips int").collect()), "or nothing needs to be done about it"
    assert [row.zips for row in frame.mapInArrow(etl.in_tasks(count), "zips int").collect()] == [0, 0]

    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("of_an_archive.py", "WORD = 1")
        made.writestr("another_of_it.py", "WORD = 2")
    monkeypatch.syspath_prepend(archive)
    assert importlib.import_module("of_an_archive").WORD == 1
    etl.forget_archives()
    assert os.fspath(archive) not in sys.path_importer_cache
    assert importlib.import_module("another_of_it").WORD == 2


def test_lists_become_cells_and_back():
    import pyarrow as pa

    values = pa.array([[9], [1, 2, 3], [], [4], [5, 6]], pa.list_(pa.int32()))
    for part in (values, values.slice(1, 3), values.slice(4), values.slice(2, 1), values.slice(5)):
        cells = rows.as_cells(part, 4)
        assert [list(np.frombuffer(cell, np.int32)) for cell in cells.to_pylist()] == part.to_pylist()
        assert list(rows.lengths(cells)) == [len(row) for row in part.to_pylist()]
        assert list(rows.flat(cells, np.int32)) == [value for row in part.to_pylist() for value in row]


def test_user_blocks_are_whole_blocks_of_the_gramian():
    for users, blocks in ((1, 8), (1024, 1), (1025, 1), (30_000, 16), (10_000_000, 8), (100_000_000, 800)):
        size = rows.user_block_rows(users, blocks, 64, rows.GRAMIAN_BYTES)
        assert size % wheel.GRAMIAN_BLOCK_ROWS == 0 and 0 < size <= rows.GROUP_ROWS
        assert size == rows.GROUP_ROWS or -(-users // size) <= blocks
    # However many partitions: what comes back to the driver is bounded, by groups where blocks would be too many.
    for users in (10_000_000, 20_000_000, 100_000_000):
        for dim in (64, 128):
            size = rows.user_block_rows(users, 1_000_000, dim, rows.GRAMIAN_BYTES)
            each = rows.GROUP_ROWS if size == rows.GROUP_ROWS else wheel.GRAMIAN_BLOCK_ROWS
            assert -(-users // each) * dim * dim * 8 <= rows.GRAMIAN_BYTES, (users, dim)
    assert rows.user_block_rows(100, 8, 16, 0) == rows.GROUP_ROWS


def test_item_blocks_are_bounded_by_entries_and_by_what_a_half_step_holds():
    assert rows.item_block_rows(1_000, 10_000, 10, 64, 1 << 30) == 100
    assert rows.item_block_rows(1_000, 800_000_000, 10, 64, 1 << 30) == 10
    size = rows.item_block_rows(10_000_000, 80_000_000, 16, 100, rows.ITEM_STATE_BYTES)
    assert 0 < size * 101 * 112 * 4 <= rows.ITEM_STATE_BYTES < (size + 1) * 101 * 112 * 4
    assert rows.item_block_rows(10, 10, 1, 512, 1) == 1


def test_a_missing_block_is_an_error():
    rows.check_blocks("x", [2, 0, 1], range(3))
    for found in ([0, 1], [1, 2], [0, 1, 1, 2], [0, 1, 2, 3], []):
        with pytest.raises(RuntimeError, match="missing"):
            rows.check_blocks("x", found, range(3))
    blocks = rows.Blocks(None, None, wheel.ItemIndex(["a", "b", "c"]), 1, 1, 1024, 2, None)
    whole = [Row(block=block, counts=np.int64([1] * count).tobytes(), items=np.int32([0] * count).tobytes(),
                 scores=np.float32([1] * count).tobytes()) for block, count in ((0, 2), (1, 1))]
    assert [len(part) for part in neighbours.joined(whole, blocks, {0, 1})] == [4, 3, 3]
    assert [len(part) for part in neighbours.joined(whole[:1], blocks, {0})] == [4, 2, 2]
    with pytest.raises(RuntimeError, match="missing"):
        neighbours.joined(whole[:1], blocks, {0, 1})
    factors = np.empty((3, 2), np.float32)
    for parts in ([np.ones((2, 2))], [np.ones((2, 2)), np.ones((2, 2))]):
        with pytest.raises(RuntimeError, match="3 are there"):
            ials.fill(factors, parts)


def test_the_etls_partitions_follow_the_raw_files_alone(few, tmp_path):
    def of(size):
        return etl.partitions_for(SimpleNamespace(input_bytes=size))

    assert (of(0), of(1), of(etl.PARTITION_BYTES), of(etl.PARTITION_BYTES + 1), of(1 << 50)) == (1, 1, 1, 2, etl.PARTITIONS_MAX)
    plan = wheel.plan_etl(os.fspath(few), os.fspath(tmp_path))
    assert plan.input_bytes == sum(path.stat().st_size for path in few.iterdir())


def test_what_is_broadcast_is_small_for_all_workers_of_an_executor():
    def context(master, **conf):
        return SimpleNamespace(master=master, defaultParallelism=32, getConf=lambda: SimpleNamespace(
            get=lambda name, default=None: conf.get(name.replace(".", "_"), default)))

    assert sharing.tasks_per_executor(context("local[32]", spark_executor_cores="4")) == 32
    assert sharing.tasks_per_executor(context("yarn", spark_executor_cores="4")) == 4
    assert sharing.tasks_per_executor(context("yarn", spark_executor_cores="4", spark_task_cpus="8")) == 1
    assert sharing.tasks_per_executor(context("spark://x")) == 32
    trainer = ials.Trainer(SimpleNamespace(sparkContext=context("yarn", spark_executor_cores="4")), None, None, {"dim": 16}, "w", 4 << 20)
    assert isinstance(trainer.output((1 << 20) // 64, "x"), sharing.ToDriver)
    assert isinstance(trainer.output((1 << 20) // 64 + 1, "x"), sharing.ToLake)


def test_what_a_task_fetches_is_whole_or_not_there(tmp_path):
    place = tmp_path / "some" / "rows"

    def fails(partial):
        partial.mkdir()
        (partial / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        sharing.fetched(place, fails)
    assert not place.exists()
    assert sharing.fetched(place, lambda partial: partial.mkdir()) == place and not list(place.iterdir())
    assert sharing.fetched(place, fails) == place, "it is there"


def test_what_runs_left_long_ago_goes(tmp_path):
    lake = wheel.Lake(os.fspath(tmp_path))
    for path in ("training/old/checkpoints/1", "training/old/users-1/0", "training/young/checkpoints/1"):
        lake.put(path, b"")
    now_ms = int(time.time() * 1000)
    long_ago = (now_ms - ials.ORPHAN_AGE_MS) / 1000 - 10
    os.utime(tmp_path / "training/old/checkpoints/1", (long_ago, long_ago))
    ials.sweep(lake, now_ms)
    assert len(lake.list("training")) == 3, "something was written there today"
    os.utime(tmp_path / "training/old/users-1/0", (long_ago, long_ago))
    ials.sweep(lake, now_ms)
    assert [path for path, _, _ in lake.list("training")] == ["training/young/checkpoints/1"]


def test_lists_of_the_current_model_and_of_the_one_before_stay(tmp_path, monkeypatch):
    one = job.Job.of(job.parse(["--raw", "r", "--lake", os.fspath(tmp_path)]))
    versions = ["a", "b", "c", "d", "e", "f"]
    for version in versions:
        one.lake.put(f"bulk/{version}/x", b"")
        time.sleep(0.02)
    kept = one.training["embedding_versions_kept"]
    assert 2 <= kept < 5
    monkeypatch.setattr(wheel.Registry, "current", lambda _: {"version": "b", "previous": "a"})
    job.prune_bulk(one)
    assert sorted(path for path, _, _ in one.lake.list("bulk")) == [f"bulk/{version}/x" for version in ["a", "b", *versions[6 - (kept - 2):]]]
    monkeypatch.setattr(wheel.Registry, "current", lambda _: None)
    job.prune_bulk(one)


def test_a_rollback_finds_its_embeddings():
    assert job.kept_versions(None) == []
    assert job.kept_versions({"version": "b", "previous": None}) == ["b"]
    assert job.kept_versions({"version": "b", "previous": "a"}) == ["b", "a"]


def test_lists_are_cut_into_files_between_batches():
    import pyarrow as pa

    def batch(*users):
        two = [user for user in users for _ in range(2)]
        columns = {"user_id": pa.array(two, pa.string()), "item_id": pa.array(two, pa.string())}
        return pa.record_batch({**columns, "score": pa.array([1.0] * len(two), pa.float32())})

    def files(batches, users_max):
        left, made = iter(batches), []
        while True:
            parquet, packed, users = lists.encoded(left, users_max)
            if not users:
                return made
            made.append(pq.read_table(io.BytesIO(parquet)).column("user_id").to_pylist()[::2])
            lines = zstandard.ZstdDecompressor().stream_reader(packed).read().splitlines()
            assert [json.loads(line)["input"]["userId"] for line in lines] == made[-1] and len(lines) == users

    empty = batch()
    batches = [empty, batch("a", "b"), batch("c"), empty, batch("d"), batch("e"), empty]
    assert files(batches, 3) == [["a", "b", "c"], ["d", "e"]]
    assert files(batches, 1) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert files(batches, 100) == [["a", "b", "c", "d", "e"]]
    assert files([empty], 1) == files([], 1) == []


def test_user_embeddings_are_cut_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "ROWS_PER_FILE", 2)
    lake = wheel.Lake(os.fspath(tmp_path))
    keys, factors = [b"ua", b"ub", b"sx", b"uc", b"ud"], np.arange(1, 11, dtype=np.float32).reshape(5, 2)
    paths = lists.write_users(lake, "e", keys, factors, np.arange(5))
    assert paths == [f"e/users-{part:05d}.parquet" for part in range(3)]
    found = [pq.read_table(tmp_path / path).to_pylist() for path in paths]
    assert [[row["id"] for row in part] for part in found] == [["a", "b"], ["c"], ["d"]]
    assert found[2][0]["vector"] == [9.0, 10.0] and json.loads(found[2][0]["metadata"]) == {"items": 4}


def test_a_metric_that_is_not_there_ends_the_night_before_training(spark, few, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "train_on_driver", lambda *_: pytest.fail("it trained"))
    with pytest.raises(SystemExit, match="'accuracy' is not evaluated"):
        night(few, tmp_path / "lake", settings, metric="accuracy")


GLUE = {
    "__init__.py": "calls = []\n",
    "context.py": "from pyspark.sql import SparkSession\nfrom awsglue import calls\n\n\nclass GlueContext:\n    def __init__(self, context):\n"
                  "        calls.append('context')\n        self.spark_session = SparkSession.builder.getOrCreate()\n",
    "job.py": "from awsglue import calls\n\n\nclass Job:\n    def __init__(self, context):\n        pass\n\n    def init(self, name, arguments):\n"
              "        calls.append(('init', name))\n\n    def commit(self):\n        calls.append('commit')\n",
}


def test_glues_job_is_committed_last_and_only_if_nothing_failed(spark, few, tmp_path, monkeypatch):
    (tmp_path / "awsglue").mkdir()
    for name, text in GLUE.items():
        (tmp_path / "awsglue" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("awsglue", "awsglue.context", "awsglue.job"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import awsglue

    def the_night(session, _):
        assert session is not None and awsglue.calls == ["context", ("init", "nightly")]
        awsglue.calls.append("night")
        return {}

    args = ["--raw", os.fspath(few), "--lake", os.fspath(tmp_path / "lake"), "--JOB_NAME", "nightly"]
    monkeypatch.setattr(job, "run", the_night)
    job.main(args)
    assert awsglue.calls == ["context", ("init", "nightly"), "night", "commit"]

    def fails(*_):
        raise OSError("no space left")

    awsglue.calls.clear()
    monkeypatch.setattr(job, "run", fails)
    with pytest.raises(OSError, match="no space"):
        job.main(args)
    assert awsglue.calls == ["context", ("init", "nightly")]
    assert spark.range(1).count() == 1, "the session is not ours to stop"
    for name in ("awsglue", "awsglue.context", "awsglue.job"):
        sys.modules.pop(name, None)


def test_a_checkpoint_is_believed_only_if_it_is_what_its_name_says(tmp_path):
    kept = ials.Checkpoints(wheel.Lake(os.fspath(tmp_path)), "training/x", 3, 2)
    assert kept.newest()[1] is None
    kept.keep(1, np.ones((3, 2), np.float32))
    kept.keep(2, np.full((3, 2), 2, np.float32))
    assert len(list((tmp_path / "training" / "x" / "checkpoints").iterdir())) == 1
    iteration, items = kept.newest()
    assert iteration == 2 and (items == 2).all()
    (path,) = (tmp_path / "training" / "x" / "checkpoints").iterdir()
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    assert kept.newest() == (0, None)
    assert ials.Checkpoints(kept.lake, "training/x", 4, 2).newest() == (0, None)


def test_blocks_are_joined_in_order_with_the_whole_sides_bits(spark, tmp_path):
    """HalfStep over files of blocks against half_step over one array, rows of every length."""
    chance = np.random.default_rng(3)
    settings = {**wheel.Settings().ials, "dim": 8}
    users = chance.normal(size=(2500, 8)).astype(np.float32)
    gramian = wheel.gramian(users)
    lengths = chance.integers(0, 300, 40)
    picked = [np.sort(chance.choice(2500, length, replace=False)) for length in lengths]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    indices = np.concatenate(picked).astype(np.int32)
    data = chance.uniform(0.1, 3, len(indices)).astype(np.float32)
    whole = wheel.half_step(indptr, indices, data, users, gramian, settings)
    lake = wheel.Lake(os.fspath(tmp_path))
    output = sharing.ToLake(lake, "training/x/users-0001")
    for block in range(3):
        output.leave(block, users[block * 1024 : (block + 1) * 1024])
    shared = sharing.InLake(lake, tmp_path.name, "users", 1, [output.path(block) for block in range(3)], 1024, 2500, 8)
    assert np.array_equal(shared.array(), users)
    joined = ials.solve_by_blocks(rows.Sparse(0, 0, indptr, indices, data), shared, gramian, settings)
    assert joined.tobytes() == whole.tobytes()
    # The next step's files take the place of this one's; those of another training are its own.
    for step, key in ((2, tmp_path.name), (1, f"{tmp_path.name}-other")):
        output = sharing.ToLake(lake, f"training/x/users-000{step}")
        for block in range(3):
            output.leave(block, users[block * 1024 : (block + 1) * 1024] + step)
        later = dataclasses.replace(shared, key=key, step=step, paths=[output.path(block) for block in range(3)])
        assert np.array_equal(later.array(), users + step)
        assert len(list((sharing.kept_folder(key) / "users").glob("all.*"))) == 1
    for key in (tmp_path.name, f"{tmp_path.name}-other"):
        sharing.let_go(spark, key)


def test_only_the_newest_versions_stay(tmp_path):
    lake = wheel.Lake(os.fspath(tmp_path))
    for version in ("a", "b", "c", "d"):
        lake.put(f"bulk/{version}/x", b"")
        time.sleep(0.02)
    lists.prune(lake, "bulk", ["a", "gone"], 2)
    assert sorted(path for path, _, _ in lake.list("bulk")) == ["bulk/a/x", "bulk/d/x"]


assert BINARY.is_file(), f"{BINARY} is not built: the local commands are what the job is held to"

"""The wheel's batch arm: snapshots with the command's bytes, the ETL's stages, Arrow in and out, the lake and the registry."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
import pytest

import anabranch
from anabranch import Dataset, InputError, Lake, NotFoundError, Record, Registry, Settings
from journeys import SHOP_CUT_OVER
from journeys import anabranch as command
from journeys import run
from test_s3 import s3  # noqa: F401 - a fixture

SETTINGS = """
[model.ials]
dim = 16
iterations = 2
[training]
test_days = 5
"""
AS_OF = 1_750_000_000_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The generated shop through the command: raw files, home, settings file."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "a.toml").write_text(SETTINGS)
    home = folder / "home"
    run(command(home, "generate", "--out", folder / "raw"))
    told = ["--config", folder / "a.toml"]
    run([*command(home), *told, "etl", "--data", folder / "raw", "--until", SHOP_CUT_OVER, "--as-of", str(AS_OF)])
    run([*command(home), *told, "train", "--no-embeddings"])
    return folder


def until_ms():
    return int(np.datetime64(SHOP_CUT_OVER, "ms").astype(np.int64))


def content(lake):
    """Everything that a dataset says, without how its files are cut."""
    dataset = Dataset(lake)
    rows = pa.Table.from_batches(dataset.interactions()).to_pylist()
    histories = {row["key"]: row["history"] for batch in dataset.histories() for row in batch.to_pylist()}
    return sorted(map(repr, rows)), histories, dataset.quarantine().to_pylist(), dataset.report


# -------------------------------------------------------------------------------------------------- the command's own bytes


def snapshot_of(lake, version):
    return Lake(lake).get(f"models/{version}/snapshot.anb")


def test_training_from_python_publishes_the_commands_snapshot(shop, tmp_path):
    settings = Settings.load(shop / "a.toml")
    lake = tmp_path / "lake"
    report = anabranch.run_etl(
        shop / "raw", lake, settings=settings, as_of_ms=AS_OF, until_ms=until_ms(), scratch=tmp_path / "scratch"
    )
    assert report["published"] == "new" and content(lake) == content(shop / "home" / "lake")
    phases = set()
    made = anabranch.train(lake, settings, scratch=tmp_path / "scratch", progress=lambda phase, done, total: phases.add(phase))
    theirs = Registry(shop / "home" / "lake").current()
    assert made["version"] == theirs["version"] and made["isPromoted"] and {"rows", "evaluate", "train"} <= phases
    assert snapshot_of(lake, made["version"]) == snapshot_of(shop / "home" / "lake", theirs["version"])
    table = anabranch.backtest(lake, settings)
    model = Registry(lake).open(tmp_path / "cache")
    assert anabranch.backtest_metrics(table) == model.meta["metrics"] and "model/seen-hidden/recall@20" in model.meta["metrics"]
    assert [row["report"] for row in table] == [row["report"] for row in made["backtest"]]


def test_a_snapshot_from_its_parts_has_the_same_bytes(shop):
    lake, settings = shop / "home" / "lake", Settings.load(shop / "a.toml")
    rows = anabranch.training_rows(lake, settings)
    assert rows.keys == sorted(rows.keys), "a dense index is the rank of the key's bytes"
    csr = (rows.indptr, rows.indices, rows.data)
    users, items, gramian = anabranch.train_ials(csr, rows.index.ids, settings.ials)
    columns = by_item(rows)
    pointer = Registry(lake).current()
    theirs = snapshot_of(lake, pointer["version"])
    model = anabranch.Model.from_bytes(theirs)
    dataset = Dataset(lake)
    made = anabranch.write_snapshot(
        rows.index,
        settings=settings,
        item_factors=items,
        item_gramian=gramian,
        neighbours=anabranch.neighbours(csr, len(rows.index), settings),
        popularity=anabranch.popularity(columns.indptr, columns.data),
        trend=rows.trend,
        user_count=len(rows.keys),
        interaction_count=len(rows.data),
        as_of_ms=rows.newest_ms,
        titles=dataset.titles(rows.index),
        metrics=model.meta["metrics"],
    )
    assert made == theirs
    # What serving computes for a user is what training gave.
    assert model.fold_in(csr).tobytes() == users.tobytes()


def by_item(rows):
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.csr_matrix((rows.data, rows.indices, rows.indptr), shape=(len(rows.keys), len(rows.index)))
    columns = matrix.T.tocsr()
    columns.sort_indices()
    return columns


# ------------------------------------------------------------------------------------------------------ stages of training


def shuffled(batches, partitions):
    """What an engine does: rows dealt by key, each partition sorted by its columns."""
    table = pa.Table.from_batches(batches)
    dealt = [hash(key) % partitions for key in table.column("key").to_pylist()]
    order = [(name, "ascending") for name in table.schema.names if name in ("part", "key", "source")]
    for number in range(partitions):
        kept = table.filter(pa.array([place == number for place in dealt]))
        yield number, kept.sort_by(order).to_batches(max_chunksize=101)


def test_rows_by_stages_are_the_rows_of_one_machine(shop):
    lake, settings = shop / "home" / "lake", Settings.load(shop / "a.toml")
    dataset = pickle.loads(pickle.dumps(Dataset(lake)))
    expected = anabranch.training_rows(lake, settings)
    full = anabranch.ItemIndex(dataset.item_ids())
    routed = [anabranch.route_histories(batch, settings) for file in dataset.files("histories") for batch in dataset.histories(file)]
    made, demand, newest = [], 0, 0
    effective = {}
    for _, batches in shuffled(routed, 3):
        maker = anabranch.RowMaker(full, settings, as_of_ms=dataset.end_ms, bots=dataset.bots())
        made += [row for batch in maker.rows(batches) for row in batch.to_pylist()]
        demand, newest = demand + maker.demand, max(newest, maker.newest_ms or 0)
        effective |= {row["key"]: row["history"] for batch in anabranch.join_histories(batches, settings) for row in batch.to_pylist()}
    made.sort(key=lambda row: row["key"])
    used = np.zeros(len(full), dtype=bool)
    used[[item for row in made for item in row["items"]]] = True
    index, places = full.retain(used), np.cumsum(used) - 1
    assert index.ids == expected.index.ids == pickle.loads(pickle.dumps(index)).ids
    assert [row["key"] for row in made] == expected.keys and newest == expected.newest_ms
    assert places[[item for row in made for item in row["items"]]].tolist() == expected.indices.tolist()
    assert np.float32([weight for row in made for weight in row["weights"]]).tobytes() == expected.data.tobytes()
    assert anabranch.trend(demand[used], settings).tobytes() == expected.trend.tobytes()

    model = Registry(lake).open(shop / "cache")
    rows = model.rows([effective[key] for key in expected.keys])
    assert [part.tobytes() for part in rows] == [part.tobytes() for part in (expected.indptr, expected.indices, expected.data)]


# ------------------------------------------------------------------------------------------------------- stages of the ETL


def of_kind(batches, kind):
    table = pa.Table.from_batches(batches, schema=anabranch.RECORD_SCHEMA)
    return table.filter(pa.compute.equal(table.column("kind"), int(kind))).to_batches()


def by_stages(plan, partitions=3, more=()):
    """The run of EtlPlan's description. The plan travels to each stage."""
    plan = pickle.dumps(plan)
    mapped = [*more]
    for file in pickle.loads(plan).files:
        mapped += pickle.loads(plan).map_file(file)
    told = [*of_kind(mapped, Record.ACCOUNT), *of_kind(mapped, Record.COUNTS)]
    folded = []
    for number, batches in shuffled(of_kind(mapped, Record.ROW), partitions):
        folded += pickle.loads(plan).fold(number, batches)
    told += [*of_kind(folded, Record.FILE), *of_kind(folded, Record.COUNTS)]
    clean = pa.Table.from_batches(of_kind(folded, Record.CLEAN), schema=anabranch.RECORD_SCHEMA)
    days = clean.sort_by([("part", "ascending"), ("key", "ascending")])
    told += pickle.loads(plan).write_days(days)
    items = pa.Table.from_batches(of_kind(mapped, Record.ITEM), schema=anabranch.RECORD_SCHEMA)
    told += pickle.loads(plan).write_items(items.sort_by("key"))
    refused = pa.Table.from_batches(of_kind(mapped, Record.QUARANTINE), schema=anabranch.RECORD_SCHEMA)
    told += pickle.loads(plan).write_quarantine(0, refused.sort_by("key"))
    return pickle.loads(plan).publish(told)


def test_stages_publish_the_local_dataset(shop, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(shop / "raw", raw)
    (raw / "interactions-bad.csv").write_text("USER_ID,ITEM_ID,TIMESTAMP\n,x,1700000000\nann,x,soon\n\"ann\nx\n")
    settings = Settings.load(shop / "a.toml")
    arguments = {"settings": settings, "as_of_ms": AS_OF, "until_ms": until_ms(), "scratch": tmp_path / "scratch"}
    local, lake = tmp_path / "local", tmp_path / "lake"
    expected = anabranch.run_etl(raw, local, **arguments)
    done = by_stages(anabranch.plan_etl(str(raw), lake, **arguments))
    assert done["report"] == expected["report"] and done["published"] == "new"
    assert done["report"]["interactions"]["quarantined"] >= 2
    assert content(lake) == content(local)
    # Again, cut alike: nothing changes; cut otherwise: the content is the same.
    assert by_stages(anabranch.plan_etl(str(raw), lake, **arguments))["published"] == "unchanged"
    by_stages(anabranch.plan_etl(str(raw), lake, **arguments), partitions=2)
    assert content(lake) == content(local)
    # A model of the one is a model of the other: users are numbered by their keys, not by their files.
    assert anabranch.train(lake, settings, evaluate=False)["version"] == anabranch.train(local, settings, evaluate=False)["version"]


def test_an_incremental_run_reaches_what_a_run_over_everything_reaches(tmp_path):
    raw, lake, whole = tmp_path / "raw", tmp_path / "lake", tmp_path / "whole"
    raw.mkdir()
    first = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,SESSION_ID,EVENT_ID\nann,tea,1600000000,view,s1,e1\nbob,milk,1600000100,purchase,,e2\n,tea,,view,s1,e3\n"
    second = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,SESSION_ID,EVENT_ID\nann,tea,1600000900,view,s1,e1\n,milk,1600000200,view,s1,e4\ncid,tea,x,view,,e5\n"
    (raw / "interactions-1.csv").write_text(first)
    with pytest.raises(NotFoundError):
        anabranch.plan_etl(str(raw), lake, incremental=True)
    by_stages(anabranch.plan_etl(str(raw), lake, as_of_ms=AS_OF))
    (raw / "interactions-2.csv").write_text(second)
    plan = anabranch.plan_etl(str(raw), lake, as_of_ms=AS_OF, incremental=True, keep=lambda file: file.name == "interactions-2.csv")
    assert [file.name for file in plan.files] == ["interactions-2.csv"]
    base = plan.base
    more = [batch for file in base.files("interactions") for batch in plan.rows_of_interactions(file)]
    more += [batch for file in base.files("histories") for batch in plan.histories_to_join(file)]
    more += [batch for file in base.files("quarantine") for batch in plan.carried_quarantine(file)]
    done = by_stages(plan, more=more)
    # New bytes, and those that the base was made of.
    assert plan.input_bytes == len(first) + len(second)
    expected = anabranch.run_etl(str(raw), whole, as_of_ms=AS_OF)
    assert done["report"] == expected["report"] and content(lake) == content(whole)
    with pytest.raises(anabranch.RetryError, match="plan again"):
        plan.base  # noqa: B018 - a property that looks


def test_records_of_the_wrong_kind_or_order_are_refused(tmp_path):
    (tmp_path / "interactions.csv").write_text("USER_ID,ITEM_ID,TIMESTAMP\nb,x,1600000000\na,x,1600000000\n")
    plan = anabranch.plan_etl(str(tmp_path), tmp_path / "lake", as_of_ms=AS_OF)
    mapped = list(plan.map_file(0))
    rows = of_kind(mapped, Record.ROW)
    accounts = of_kind(mapped, Record.ACCOUNT)
    kind, part, key, row = rows[0].columns
    null = pa.RecordBatch.from_arrays([kind, part, pa.array([None, b"ub"], pa.binary()), row], schema=anabranch.RECORD_SCHEMA)
    cases = [
        (lambda: list(plan.fold(0, rows)), "sort each partition by key"),
        (lambda: list(plan.fold(0, accounts)), "filter by kind"),
        (lambda: list(plan.fold(0, [null])), "nulls"),
        (lambda: list(plan.fold(0, [rows[0].drop_columns(["row"])])), "no column 'row'"),
        (lambda: list(plan.fold(0, [3])), "does not speak Arrow"),
        (lambda: plan.publish(rows), "not Row"),
        (lambda: plan.publish([]), "no account"),
        (lambda: list(plan.write_quarantine(100, [])), "partition 100"),
        (lambda: list(plan.map_file(7)), "file 7"),
        (lambda: anabranch.plan_etl(str(tmp_path / "none"), tmp_path / "lake"), "nothing matches"),
        (lambda: anabranch.plan_etl(str(tmp_path), tmp_path / "lake", mapping="[interactions]\nfile = 1"), "mapping"),
        (lambda: anabranch.plan_etl(str(tmp_path), tmp_path / "lake", erasure_key=b"short"), "32"),
    ]
    for call, part in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert part in str(caught.value), (part, str(caught.value))
    with pytest.raises(anabranch.InternalError, match="do not add up"):
        plan.publish(accounts)
    with pytest.raises(NotFoundError):
        Dataset(tmp_path / "lake")
    # A sliced batch is read where it lies, offsets and all.
    tail = pa.Table.from_batches(rows).sort_by("key").combine_chunks().to_batches()[0].slice(1)
    assert tail.column("row").offset == 1
    counts = [json.loads(row) for batch in of_kind(list(plan.fold(0, [tail])), Record.COUNTS) for row in batch.column("row").to_pylist()]
    assert counts[0]["fold"]["clean"] == 1
    # A reader that stops early ends the thread that reads.
    one = plan.map_file(0)
    next(one)
    one.close()


# ---------------------------------------------------------------------------------------------- lists, reading, registry, lake


def test_lists_are_those_of_the_command(shop, tmp_path):
    home, settings = shop / "home", shop / "a.toml"
    told = run([*command(home), "--config", settings, "--json", "recommend", "--all", "--hide", "everything", "--length", "7"])
    outcome = json.loads(told)
    theirs = pa.parquet.read_table(home / "lake" / outcome["parquet"])
    lake = home / "lake"
    model = Registry(lake).open(tmp_path / "cache")
    # What a user did in sessions counts for the user, as for the command: histories are routed and joined first.
    settings = Settings(SETTINGS)
    routed = pa.Table.from_batches([anabranch.route_histories(batch, settings) for batch in Dataset(lake).histories()])
    joined = anabranch.join_histories(routed.sort_by([("key", "ascending"), ("source", "ascending")]).to_batches(), settings)
    mine = pa.Table.from_batches([model.bulk_lists(batch, N=7, hide="everything") for batch in joined])
    order = [("user_id", "ascending"), ("rank", "ascending")]
    assert mine.schema == anabranch.BULK_SCHEMA
    assert mine.sort_by(order).to_pylist() == theirs.sort_by(order).to_pylist()

    histories = [row["history"] for batch in Dataset(lake).histories() for row in batch.to_pylist() if row["key"].startswith(b"u")][:50]
    found, scores = model.recommend_histories(histories, N=7, hide="everything")
    assert found.shape == scores.shape == (50, 7)
    rows = model.rows(histories)
    hidden, _ = model.recommend(rows, N=7)
    shown, _ = model.recommend(rows, N=7, filter_already_liked_items=False)
    for user in range(50):
        liked = set(rows[1][rows[0][user] : rows[0][user + 1]].tolist())
        assert not liked & set(hidden[user].tolist()) and (not liked or liked & set(shown[user].tolist()))
    assert model.similar_items(3, N=5)[0][0] == 3 and model.neighbours(3)[0].dtype == np.int32
    assert model.item_ids[model.item_index(model.item_ids[4])] == model.item_ids[4] and model.item_index("no such") is None
    test = (rows[0], rows[1], rows[2])
    report = model.evaluate(rows, test, cutoff=20)
    assert report["users"] == 50 and report["recall"] > 0.2
    with pytest.raises(InputError, match="nothing, seen or everything"):
        model.recommend_histories(histories, hide="all")
    with pytest.raises(anabranch.CorruptError, match="history 1"):
        model.recommend_histories([histories[0], b"\xff"])


def test_reading_without_folding(tmp_path):
    (tmp_path / "interactions.jsonl").write_text(
        '{"USER_ID":"ann","ITEM_ID":"tea","TIMESTAMP":1600000000,"EVENT_TYPE":"view","EVENT_VALUE":2.5}\n'
        '{"SESSION_ID":"s1","ITEM_ID":"té","TIMESTAMP":1600000001,"EVENT_TYPE":"view"}\n{"ITEM_ID":"tea"}\n'
    )
    events, refused = anabranch.read_events(tmp_path, as_of_ms=AS_OF)
    assert events.schema == anabranch.EVENTS_SCHEMA and refused.schema == anabranch.QUARANTINE_SCHEMA
    assert events.column("user_id").to_pylist() == ["ann", None] and events.column("session_id").to_pylist() == [None, "s1"]
    assert events.column("item_id").to_pylist() == ["tea", "té"] and events.column("event_value").to_pylist() == [2.5, None]
    assert events.column("time_ms").cast(pa.int64()).to_pylist() == [1600000000000, 1600000001000]
    assert refused.to_pylist()[0]["raw"] == '{"ITEM_ID":"tea"}'


def test_models_are_published_promoted_and_rolled_back(shop, tmp_path):
    theirs = shop / "home" / "lake"
    bytes_of = snapshot_of(theirs, Registry(theirs).current()["version"])
    registry = pickle.loads(pickle.dumps(Registry(tmp_path / "lake")))
    assert registry.current() is None and registry.list() == []
    with pytest.raises(NotFoundError):
        registry.open(tmp_path / "cache")
    first = registry.publish(bytes_of, {"recall": 0.5})
    (tmp_path / "second.anb").write_bytes(changed(bytes_of))
    second = registry.publish(tmp_path / "second.anb")
    assert first["version"] != second["version"] and registry.publish(bytes_of)["version"] == first["version"]
    assert registry.promote(first["version"])["number"] == 1
    assert registry.promote(second["version"], "better")["previous"] == first["version"]
    assert registry.rollback("worse after all")["version"] == first["version"]
    assert [entry["is_current"] for entry in sorted(registry.list(), key=lambda e: e["version"] != first["version"])] == [True, False]
    assert Path(registry.fetch(tmp_path / "cache")).read_bytes() == bytes_of
    assert registry.open(tmp_path / "cache").version == first["version"]
    with pytest.raises(NotFoundError, match="0123456789abcdef"):
        registry.promote("0123456789abcdef")


def changed(snapshot):
    """Another snapshot: the same parts, with another word about themselves."""
    model = anabranch.Model.from_bytes(snapshot)
    meta = model.meta
    neighbours = [model.neighbours(item) for item in range(len(model))]
    offsets = np.cumsum([0, *(len(items) for items, _ in neighbours)])
    tables = {"events": meta["event_settings"], "model": {name: meta[name] for name in ("ials", "neighbours", "blend", "trend")}}
    return anabranch.write_snapshot(
        anabranch.ItemIndex(model.item_ids),
        settings=Settings(tables),
        item_factors=model.item_factors,
        item_gramian=model.item_gramian,
        neighbours=(offsets, np.concatenate([items for items, _ in neighbours]), np.concatenate([s for _, s in neighbours])),
        popularity=model.popularity,
        trend=model.trend,
        user_count=meta["user_count"],
        interaction_count=meta["interaction_count"],
        as_of_ms=meta["as_of_ms"] + 1,
    )


def test_a_lake_in_a_folder(tmp_path):
    lake = pickle.loads(pickle.dumps(Lake(tmp_path / "lake")))
    assert lake.put_new("a/b.bin", b"one") and not lake.put_new("a/b.bin", b"two")
    lake.put("a/c.bin", b"three")
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    assert lake.upload("d", tmp_path / "big") == 100_000
    assert lake.download("d", tmp_path / "new" / "copy") == 100_000
    assert (tmp_path / "new" / "copy").read_bytes() == b"x" * 100_000
    assert [entry[:2] for entry in lake.list()] == [("a/b.bin", 3), ("a/c.bin", 5), ("d", 100_000)]
    assert lake.get("a/b.bin") == b"one" and lake.exists("d")
    lake.delete("d")
    lake.delete("d")
    assert not lake.exists("d")
    for call, error in [
        (lambda: lake.get("none"), NotFoundError),
        (lambda: lake.get("../etc"), InputError),
        (lambda: Lake("ftp://x"), InputError),
        (lambda: Lake("s3://"), InputError),
        (lambda: Lake(tmp_path, access_key_id="a"), InputError),
    ]:
        with pytest.raises(error):
            call()


def test_a_lake_takes_its_region_along(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_REGION", raising=False)
    sent = pickle.dumps(Lake("s3://lake/x"))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert pickle.loads(sent).__getnewargs_ex__()[1]["region"] == "eu-central-1"
    assert pickle.loads(pickle.dumps(Lake("s3://lake", region="us-west-2"))).__getnewargs_ex__()[1]["region"] == "us-west-2"


def test_the_whole_way_on_s3(s3, shop, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    client, settings = s3
    for path in (shop / "raw").iterdir():
        client.upload_file(str(path), "raw", f"shop/{path.name}")
    named = {"endpoint": settings["AWS_ENDPOINT_URL"], "access_key_id": "test", "secret_access_key": "test"}
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    lake = pickle.loads(pickle.dumps(Lake("s3://lake/wheel", **named)))
    plan = anabranch.plan_etl(
        "s3://raw/shop", lake, settings=Settings.load(shop / "a.toml"), as_of_ms=AS_OF, until_ms=until_ms(),
        data_store=Lake("s3://raw", **named), scratch=tmp_path / "scratch",
    )
    done = by_stages(plan)
    theirs = Dataset(shop / "home" / "lake").report
    assert done["report"]["interactions"] == theirs["interactions"] and done["report"]["histories"] == theirs["histories"]
    made = anabranch.train(lake, Settings.load(shop / "a.toml"), scratch=tmp_path / "scratch")
    assert made["version"] == Registry(shop / "home" / "lake").current()["version"]
    # By the environment alone, as the command does it.
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, settings[name])
    model = Registry("s3://lake/wheel").open(tmp_path / "cache")
    assert model.version == made["version"]

#!/usr/bin/env python3
"""The nightly job: raw interactions to a dataset, a model, lists for every user and embeddings. Runs on AWS Glue 5 and 6, and wherever Spark 3.5
or newer does:

    python scripts/glue_job.py --raw data/ --lake lake/

Spark brings the shuffles; what a row means and what a model is comes from the wheel, whose Rust is the local command's. So the
dataset and the model are those of `anabranch etl` and `anabranch train`, to the bit.

The order makes a failure harmless: the dataset is published by one manifest, the model is published before it is promoted, and it is promoted last, when
its lists and embeddings are there and its figure is not worse than that of the model it would replace. A run that ends anywhere before
leaves the current model as it was; run again, it goes on from what is whole (data files, checkpoints) and
writes nothing twice.

The job's arguments are texts (`--key value`); Glue adds its own, which are passed over.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import logging
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import anabranch
from anabranch import Dataset, EtlPlan, Lake, Registry, Settings, VectorDatabase

log = logging.getLogger("anabranch.glue_job")

# Up to here the driver trains alone: 20 million entries and their transpose take 320 MB, and a core solves them in seconds.
DRIVER_INTERACTIONS_MAX = 20_000_000
SHARE_BYTES = 1 << 30
SUBJECT = "model/seen-hidden"


# -------------------------------------------------------------------------------------------------------------- arguments


def truth(text: str) -> bool:
    """`true` or `false`, as Glue's arguments are texts."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The job's arguments; Glue's own are passed over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--raw", help="folder, file or s3:// location of the raw files")
    parser.add_argument("--mapping", help="mapping of files and columns (TOML), a path or s3://; Personalize's names without one")
    parser.add_argument("--settings", help="anabranch.toml, a path or s3://; the defaults without one")
    parser.add_argument("--lake", required=True, help="dataset, lists and checkpoints: a folder or s3://")
    parser.add_argument("--models", help="where models/ lies; [places] models of the settings, else the lake")
    parser.add_argument("--metric", default="recall", help="the figure that decides, as metrics.json names it, or recall, ndcg, mrr, coverage")
    parser.add_argument("--min-improvement", type=float, default=0.0,
                        help="promote if the figure is at least the current model's × (1 + this); -0.05 accepts a fall by 5 %%")
    parser.add_argument("--promote", type=truth, default=True, help="false: publish only")
    parser.add_argument("--promote-unmeasured", type=truth, default=False,
                        help="true: promote also if the current model has no figure to compare with")
    parser.add_argument("--rollback", type=truth, default=False, help="true: the model before becomes current again, nothing else happens")
    parser.add_argument("--driver-interactions-max", type=int, default=DRIVER_INTERACTIONS_MAX,
                        help="up to so many clean interactions the driver trains alone; 0: never")
    parser.add_argument("--bulk", type=truth, default=True, help="lists for every user")
    parser.add_argument("--embeddings", type=truth, default=True,
                        help="item and user embeddings: files of the lake, and the server of [vectors] if the settings name one")
    parser.add_argument("--incremental", type=truth, default=False, help="read only files of interactions that the dataset does not hold whole")
    parser.add_argument("--keep-going", type=truth, default=False, help="publish although whole files could not be read")
    parser.add_argument("--until", help="leave later events to the stream: milliseconds since 1970, or a date")
    parser.add_argument("--as-of", help="judges 'more than a day ahead'; the newest file's time by default")
    parser.add_argument("--erasure-key", help="32 bytes, a path or s3://; needed once somebody was forgotten")
    parser.add_argument("--region", help="the region of the buckets, where neither AWS_REGION nor AWS_DEFAULT_REGION names it")
    parser.add_argument("--partitions", type=int, default=0,
                        help="of the shuffles; by default the ETL's follow the raw files' size, training's are 4 for each core")
    parser.add_argument("--share-bytes", type=int, default=SHARE_BYTES,
                        help="factors of which an executor's workers would hold more together are mapped from disk instead of broadcast")
    arguments, passed_over = parser.parse_known_args(argv)
    if not arguments.rollback and not arguments.raw:
        parser.error("--raw is missing: where the raw files lie")
    glue = argparse.ArgumentParser(allow_abbrev=False)
    glue.add_argument("--JOB_NAME", default="anabranch")
    arguments.job_name = glue.parse_known_args(passed_over)[0].JOB_NAME
    return arguments


def read(location: str) -> bytes:
    """A small file, here or on S3."""
    folder, _, name = location.rpartition("/")
    if location.startswith("s3://"):
        return Lake(folder).get(name)
    with open(location, "rb") as file:
        return file.read()


def key_bytes(data: bytes) -> bytes:
    """An erasure key: its 32 bytes, or their hexadecimal digits."""
    if len(data) == 32:
        return data
    try:
        return bytes.fromhex(data.decode())
    except ValueError as error:
        raise SystemExit("--erasure-key: neither 32 bytes nor 64 hexadecimal digits; take keys/erasure.key of the deployment") from error


def time_ms(text: str | None) -> int | None:
    """Milliseconds since 1970 from that number, or from a date or time in ISO 8601 (UTC unless it says otherwise)."""
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    from datetime import datetime, timezone

    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)


@dataclass
class Job:
    """What a run works with."""

    arguments: argparse.Namespace
    settings: Settings
    tree: Mapping[str, Any]
    lake: Lake
    models: Lake
    partitions: int = 0
    timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Job:
        text = read(arguments.settings).decode() if arguments.settings else ""
        tree = tomllib.loads(text)
        models = arguments.models or tree.get("places", {}).get("models") or arguments.lake
        tree_of_wheel = {name: tree[name] for name in ("events", "etl", "model", "training") if name in tree}
        if arguments.keep_going:
            tree_of_wheel = {**tree_of_wheel, "etl": {**tree_of_wheel.get("etl", {}), "keep_going": True}}
        return cls(arguments, Settings(tree_of_wheel), tree, Lake(arguments.lake), Lake(models))

    @property
    def registry(self) -> Registry:
        return Registry(self.models)

    @property
    def training(self) -> Mapping[str, Any]:
        return self.settings.to_dict()["training"]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Tells how long a phase took."""
        begin = time.monotonic()
        log.info("%s begins", name)
        yield
        self.timings[name] = round(time.monotonic() - begin, 3)
        log.info("%s took %.1f s", name, self.timings[name])


# ------------------------------------------------------------------------------------------------------------------ Spark


@contextmanager
def spark_session(job_name: str) -> Iterator[Any]:
    """Glue's session with its job begun and committed, or a plain one. The commit is last: a job that failed did not happen."""
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    # Results are counted in blocks of factors, which the share limit bounds already.
    conf = SparkConf().setAppName(job_name).setIfMissing("spark.driver.maxResultSize", "0")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        conf.setIfMissing("spark.executorEnv.AWS_DEFAULT_REGION", region)
    try:
        from awsglue.context import GlueContext
        from awsglue.job import Job as GlueJob
    except ImportError:
        is_ours = SparkSession.getActiveSession() is None
        spark = SparkSession.builder.config(conf=conf).getOrCreate()
        try:
            yield spark
        finally:
            if is_ours:
                spark.stop()
        return
    glue = GlueContext(SparkContext.getOrCreate(conf))
    committed = GlueJob(glue)
    committed.init(job_name, {})
    yield glue.spark_session
    committed.commit()


# -------------------------------------------------------------------------------------------------------------------- ETL


def known_files(report: Mapping[str, Any]) -> set[tuple[str, int]]:
    """Name and size of the files of interactions that the dataset holds whole: the bookmark, which moves with the data. A file of which
    rows were left out for their time, after the cut-over or more than a day ahead, is not among them: another night may take those."""
    return {
        (file["file"], file["bytes"]) for file in report["files"]
        if file["table"] == "interactions" and not (file.get("failed") or file["after_cut_over"] or file.get("too_new"))
    }


def brings_nothing(plan: EtlPlan, report: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the dataset of this report is what the plan, which adds to it, would make: no file of interactions to read, and the files of
    items and users as they were. A file that was replaced by one of the same size is newer than what the report was judged by."""
    tables = ("items", "users")
    planned = {(file.table, file.name, file.size) for file in plan.files if file.table in tables}
    held = {(file["table"], file["file"], file["bytes"]) for file in report["files"] if file["table"] in tables}
    is_read = any(file.table == "interactions" for file in plan.files)
    return not is_read and planned == held and plan.as_of_ms == report["as_of_ms"] and settings == report["settings"]


def planned(job: Job, held: Dataset | None) -> EtlPlan:
    """The plan of everything, or of what is added to `held`."""
    arguments = job.arguments
    known = known_files(held.report) if held else set()
    return anabranch.plan_etl(
        arguments.raw,
        job.lake,
        mapping=read(arguments.mapping).decode() if arguments.mapping else None,
        settings=job.settings,
        as_of_ms=time_ms(arguments.as_of),
        until_ms=time_ms(arguments.until),
        erasure_key=key_bytes(read(arguments.erasure_key)) if arguments.erasure_key else None,
        keep=(lambda file: file.table != "interactions" or (file.name, file.size) not in known) if held else None,
        incremental=held is not None,
        data_store=job.lake,
    )


def etl(spark: Any, job: Job) -> dict[str, Any]:
    """Raw files to a published dataset."""
    from anabranch.spark import etl as engine

    held = dataset_of(job.lake) if job.arguments.incremental else None
    plan = planned(job, held)
    if held is not None and plan.base is None:
        log.info("dataset %d may hold events after --until: everything is read, since they cannot be taken out of it", held.number)
        held, plan = None, planned(job, None)
    if held is not None and brings_nothing(plan, held.report, job.settings.to_dict()["etl"]):
        log.info("no new files: dataset %d stays", held.number)
        return {"report": held.report, "published": "unchanged", "number": held.number}
    outcome = engine.run(spark, plan, job.arguments.partitions or engine.partitions_for(plan), held)
    if outcome["published"] is None:
        read_now = {(file.table, file.name) for file in plan.files}
        failed = [file for file in outcome["report"]["files"] if file.get("failed") and (file["table"], file["file"]) in read_now]
        raise SystemExit(
            f"{len(failed)} file(s) could not be read whole, the first being {failed[0]['file']}: {failed[0]['failed']}. Mend or remove them, "
            "or accept it with --keep-going true; the dataset published before is untouched"
        )
    return outcome


def dataset_of(lake: Lake) -> Dataset | None:
    """The newest dataset, if there is one."""
    try:
        return Dataset(lake)
    except anabranch.NotFoundError:
        return None


# --------------------------------------------------------------------------------------------------------------- training


@dataclass
class Candidate:
    """A published model that is not current yet."""

    version: str
    figures: Mapping[str, float]
    how: str
    users: int
    items: int
    entries: int
    resumed_from: int = 0
    # Removes what a run that is started again would resume from.
    finish: Callable[[], None] = lambda: None


def snapshot_of(
    job: Job, dataset: Dataset, index: Any, factors: Any, gramian: Any, neighbours: Any, popularity: Any, trend: Any, users: int,
    entries: int, newest_ms: int, titles: Any, figures: Mapping[str, float],
) -> bytes:
    """The snapshot's bytes; both ways of training end here."""
    return anabranch.write_snapshot(
        index, settings=job.settings, item_factors=factors, item_gramian=gramian, neighbours=neighbours, popularity=popularity, trend=trend,
        user_count=users, interaction_count=entries, as_of_ms=newest_ms, titles=titles, metrics=figures,
    )


def by_item(indptr: Any, items: Any, data: Any, item_count: int) -> tuple[Any, Any]:
    """Rows of items from rows of users, users ascending: (indptr, data)."""
    order = np.argsort(items, kind="stable")
    counts = np.bincount(items, minlength=item_count)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), data[order]


def train_on_driver(spark: Any, job: Job, dataset: Dataset, table: Sequence[Mapping[str, Any]]) -> Candidate:
    """The wheel alone, on all the driver's cores."""
    from anabranch.spark import lists

    model = job.settings.to_dict()["model"]
    rows = anabranch.training_rows(job.lake, job.settings)
    csr = (rows.indptr, rows.indices, rows.data)
    users, items, gramian = anabranch.train_ials(csr, rows.index.ids, job.settings.ials)
    item_indptr, item_data = by_item(*csr, len(rows.index))
    titles = dataset.titles(rows.index)
    figures = anabranch.backtest_metrics(table)
    snapshot = snapshot_of(
        job, dataset, rows.index, items, gramian, anabranch.neighbours(csr, len(rows.index), model["neighbours"]),
        anabranch.popularity(item_indptr, item_data), rows.trend, len(rows.keys), len(rows.data), rows.newest_ms, titles, figures,
    )
    version = publish(job, dataset, snapshot, table)
    if job.arguments.embeddings:
        def write(folder: str) -> list[str]:
            users_min = job.training["embedding_users_min"]
            paths = lists.write_items(job.lake, folder, rows.index.ids, items, titles, np.diff(item_indptr), users_min)
            return paths + lists.write_users(job.lake, folder, rows.keys, users, np.diff(rows.indptr))

        embeddings(spark, job, dataset, version, write)
    return Candidate(version, figures, "driver", len(rows.keys), len(rows.index), len(rows.data))


def train_distributed(spark: Any, job: Job, dataset: Dataset, table: Sequence[Mapping[str, Any]]) -> Candidate:
    """Half-steps as Spark tasks."""
    from anabranch.spark import ials, lists, neighbours, rows

    settings = job.settings
    tree = settings.to_dict()
    made = rows.rows_of(spark, dataset, settings, job.partitions)
    core = dataset.report["settings"]
    made = rows.k_core(made, core["k_core_users"], core["k_core_items"])
    work = ials.work_folder(made, settings, (core["k_core_users"], core["k_core_items"]))
    blocks = rows.blocks_of(spark, made, job.partitions, tree["model"]["ials"]["dim"])
    trend = anabranch.trend(made.demand[blocks.is_used], settings)
    trainer = ials.Trainer(spark, job.lake, blocks, settings.ials, work, job.arguments.share_bytes)
    found = trainer.run(lambda done: log.info("iteration %d of %d took %.1f s", done.iteration, done.iterations, done.seconds))
    titles = dataset.titles(blocks.index)
    figures = anabranch.backtest_metrics(table)
    near = neighbours.neighbours_of(trainer, tree["model"]["neighbours"], job.partitions)
    with rows.large_records(spark):
        popularity = ials.popularity_of(blocks)
    snapshot = snapshot_of(
        job, dataset, blocks.index, found.items, found.gramian, near, popularity, trend, blocks.user_count, blocks.entry_count,
        made.newest_ms, titles, figures,
    )
    version = publish(job, dataset, snapshot, table)
    if job.arguments.embeddings:
        users_min = tree["training"]["embedding_users_min"]
        embeddings(
            spark, job, dataset, version,
            lambda folder: lists.embeddings_of_blocks(trainer, found.items, found.gramian, titles, folder, users_min),
        )
    trainer.release()
    return Candidate(
        version, figures, "spark", blocks.user_count, len(blocks.index), blocks.entry_count, found.resumed_from, trainer.finish
    )


def kept_versions(current: Mapping[str, Any] | None) -> list[str]:
    """The current model and the one that a rollback would make current."""
    return [version for version in ((current or {}).get("version"), (current or {}).get("previous")) if version]


def publish(job: Job, dataset: Dataset, snapshot: bytes, table: Sequence[Mapping[str, Any]]) -> str:
    """Publishes a snapshot; it is not current by that."""
    published = job.registry.publish(snapshot, {"backtest": list(table), "dataset": dataset.number})
    return str(published["version"])


def embeddings(spark: Any, job: Job, dataset: Dataset, version: str, write: Any) -> None:
    """Embeddings of a version, as files of the lake and in the vector database of `[vectors]`; those of versions beyond the newest few go."""
    from anabranch.spark import lists, vectors

    folder = f"{lists.EMBEDDINGS}/{version}"
    told = {"dataset": dataset.number}
    with job.phase("embeddings"):
        current = job.registry.current()
        # Those of the model before, too: a rollback asks for them.
        in_use = {version, *kept_versions(current)}
        count = job.training["embedding_versions_kept"]
        if not lists.is_written(job.lake, folder, told):
            lists.mark_written(job.lake, folder, told, write(folder))
            lists.prune(job.lake, lists.EMBEDDINGS, in_use, count)
        if job.tree.get("vectors", {}).get("kind", "embedded") != "embedded":
            database = VectorDatabase(job.tree)
            place = hashlib.sha256(json.dumps(job.tree["vectors"], sort_keys=True).encode()).hexdigest()
            log.info("vector database: %s", vectors.load(spark, job.lake, folder, version, database, place))
            vectors.drop_old(database, in_use, count)


def give_memory_back() -> None:
    """Freed memory to the system: glibc keeps what lies below the last allocation that lives, and Python's workers and the JVM may need it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def train(spark: Any, job: Job, dataset: Dataset) -> Candidate:
    """Evaluates the settings on a time split, trains on everything, publishes."""
    with job.phase("evaluate"):
        table = anabranch.backtest(job.lake, job.settings)
        # A metric that is not there is known now, before hours of training.
        metric_name(job.arguments.metric, anabranch.backtest_metrics(table))
    # Of 20 million interactions the back-test leaves two gigabytes.
    give_memory_back()
    interactions = dataset.report["interactions"]["clean"]
    limit = job.arguments.driver_interactions_max
    with job.phase("train"):
        if interactions <= limit:
            log.info("%d interactions are not more than %d: the driver trains alone, without Spark", interactions, limit)
            return train_on_driver(spark, job, dataset, table)
        log.info("%d interactions are more than %d: half-steps run as Spark tasks", interactions, limit)
        return train_distributed(spark, job, dataset, table)


# -------------------------------------------------------------------------------------------------------------- promotion


def metric_name(name: str, figures: Mapping[str, float]) -> str:
    """A metric's full name: `recall` is that of the model with seen items hidden, at whatever length was evaluated."""
    if name in figures:
        return name
    found = [full for full in figures if full.startswith(f"{SUBJECT}/{name}@")]
    if len(found) != 1:
        raise SystemExit(f"--metric {name!r} is not evaluated; there are {', '.join(sorted(figures))}")
    return found[0]


def verdict(
    candidate: Mapping[str, float], current: Mapping[str, float] | None, name: str, min_improvement: float, takes_unmeasured: bool = False
) -> tuple[bool, str]:
    """Whether a model is good enough to replace the current one, and why, in words. `current` are the figures that were recorded when that one
    was made: evaluated again today it would be asked about days that it has learned from.

    A figure at another length of list is another figure, so a current model without this one is compared with at a length that both were
    evaluated at, if there is one, and else stays, unless `takes_unmeasured`."""
    name = metric_name(name, candidate)
    if current is None:
        return True, f"{name} {candidate[name]:.4f}, and there is no current model"
    if name not in current:
        kind = name.rsplit("@", 1)[0]
        others = sorted(full for full in current if full.rsplit("@", 1)[0] == kind)
        shared = [full for full in others if full in candidate]
        if not shared:
            recorded = f"it has {', '.join(others)}: set [training] cutoff back to compare" if others else "it was not evaluated"
            reason = f"{name} {candidate[name]:.4f}, which the current model has no figure for ({recorded})"
            remedy = "promote this one by hand (`anabranch models promote`), or once by --promote-unmeasured true"
            return (True, reason) if takes_unmeasured else (False, f"{reason}; {remedy}")
        name = shared[0]
    found = candidate[name]
    least = current[name] * (1.0 + min_improvement)
    if found >= least:
        return True, f"{name} {found:.4f} is at least {current[name]:.4f} × {1.0 + min_improvement:g}"
    return False, f"{name} {found:.4f} is below {current[name]:.4f} × {1.0 + min_improvement:g}"


def current_figures(registry: Registry) -> Mapping[str, float] | None:
    """The recorded figures of the current model; None without one."""
    for entry in registry.list():
        if entry["is_current"]:
            return anabranch.backtest_metrics((entry["metrics"] or {}).get("backtest", []))
    return None


# ------------------------------------------------------------------------------------------------------------------- main


def run(spark: Any, job: Job) -> dict[str, Any]:
    """The night, read top to bottom."""
    from anabranch.spark import ials

    arguments = job.arguments
    job.partitions = arguments.partitions or 4 * spark.sparkContext.defaultParallelism
    with job.phase("etl"):
        told = etl(spark, job)
    dataset = Dataset(job.lake)
    candidate = train(spark, job, dataset)
    current = job.registry.current()
    is_current = current is not None and current["version"] == candidate.version
    is_better, reason = (True, "it is current already") if is_current else verdict(
        candidate.figures, current_figures(job.registry), arguments.metric, arguments.min_improvement, arguments.promote_unmeasured
    )
    bulk = None
    if is_better and arguments.promote:
        # Lists before the promotion: whoever sees the new model finds them.
        if arguments.bulk:
            bulk = lists_for_all(spark, job, dataset, candidate.version)
        job.registry.promote(candidate.version, f"trained: {reason}")
    # Last: whatever failed before, a night that is started again goes on after its last iteration.
    candidate.finish()
    is_promoted = is_better and arguments.promote
    # What neither this night nor a rollback needs.
    ials.sweep(job.lake, int(time.time() * 1000))
    prune_bulk(job)
    log.info("model %s is %s: %s", candidate.version, "current" if is_promoted else "not promoted", reason)
    return {
        "dataset": dataset.number, "published": told["published"], "interactions": dataset.report["interactions"],
        "version": candidate.version, "trainedOn": candidate.how, "resumedFrom": candidate.resumed_from, "users": candidate.users,
        "items": candidate.items, "entries": candidate.entries, "isPromoted": is_promoted, "reason": reason,
        "bulkUsers": bulk and bulk["users"], "seconds": job.timings,
    }


def lists_for_all(spark: Any, job: Job, dataset: Dataset, version: str) -> dict[str, Any]:
    """Lists for every user, of the length and with the items hidden that the stream's settings say."""
    from anabranch.spark import lists

    stream = job.tree.get("stream", {})
    with job.phase("bulk"):
        return lists.bulk(
            spark, job.lake, job.models, version, dataset, job.settings, job.partitions, stream.get("list_length", 20), stream.get("hide", "seen")
        )


def prune_bulk(job: Job) -> None:
    """Lists of the current model and of the one before stay, and of the newest versions as many as embeddings do."""
    from anabranch.spark import lists

    lists.prune(job.lake, lists.BULK, kept_versions(job.registry.current()), job.training["embedding_versions_kept"])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the job; what it did is returned and printed as one line of JSON."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    arguments = parse(sys.argv[1:] if argv is None else argv)
    if arguments.region and not os.environ.get("AWS_REGION"):
        # The wheel looks there; what is sent to tasks brings it along.
        os.environ.setdefault("AWS_DEFAULT_REGION", arguments.region)
    job = Job.of(arguments)
    if arguments.rollback:
        outcome = {"rolledBackTo": job.registry.rollback("rolled back by the job")["version"]}
    else:
        with spark_session(arguments.job_name) as spark:
            outcome = run(spark, job)
    print(json.dumps(outcome, default=str))
    return outcome


if __name__ == "__main__":
    main()

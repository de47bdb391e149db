"""A deployment of terraform/ on ministack: applied, trained, fed, read, and taken down again."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pyarrow.parquet

from conftest import BINARY, ROOT, environment, free_port, start_server, wait_until
from infrastructure import ERASURE_KEY, FUNCTIONS, TERRAFORM, outputs, wheel, write_zip

REGION = "us-east-1"
NAME = "shop"
JOB = ROOT / "scripts" / "glue_job.py"
# A put of 500 records takes ministack some 50 ms; more at once and the functions starve.
PUT_RECORDS_MAX = 500


class Cloud:
    """ministack, with a client for each service."""

    def __init__(self, folder):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.credentials = {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
        settings = environment(
            BIND_HOST="127.0.0.1", MINISTACK_HOST="127.0.0.1", GATEWAY_PORT=str(port), IOT_MTLS_ENABLED="0", SFTP_ENABLED="0",
            LAMBDA_EXECUTOR="local", AWS_ENDPOINT_URL=self.url,
            # What the functions download goes away with the test.
            TMPDIR=str(folder), ANABRANCH__LAMBDA__CACHE_FOLDER=str(folder / "models"),
        )
        self.log = folder / "ministack.log"
        command = [str(Path(sys.executable).with_name("ministack"))]
        self.server = start_server(command, f"{self.url}/_ministack/health", self.log, settings)

    def client(self, service):
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")

    def stop(self):
        self.server.terminate()
        self.server.wait(timeout=30)


@dataclass
class Deployment:
    """The configuration, applied."""

    cloud: Cloud
    terraform: object
    folder: Path
    root: Path
    variables: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)

    @classmethod
    def prepare(cls, cloud, terraform, folder, mapping):
        root = terraform.copy()
        # The emulator has one address for all buckets; everything else is as for AWS.
        (root / "provider_override.tf").write_text(
            'provider "aws" {\n  s3_use_path_style = true\n  skip_metadata_api_check = true\n  skip_region_validation = true\n}\n'
        )
        variables = {
            "name": NAME, "region": REGION, "erasure_key": ERASURE_KEY, "package_folder": str(package(folder)),
            "mapping_file": str(mapping), "model_poll_s": "1", "firehose_buffer_s": "0", "deletion_protection": "false",
            "force_destroy": "true", "alarm_emails": '["ops@shop.example"]', "has_bulk_lists": "false",
        }
        return cls(cloud, terraform, folder, root, variables)

    def run(self, *arguments, check=True, timeout=900):
        variables = {f"TF_VAR_{name}": value for name, value in self.variables.items()}
        return self.terraform.run(self.root, *arguments, check=check, timeout=timeout, **self.cloud.credentials, **variables)

    def apply(self, **variables):
        """Applies, with these variables from now on. The seconds that it took."""
        self.variables |= variables
        began = time.monotonic()
        self.run("apply", "-auto-approve", "-no-color")
        self.outputs = outputs(self.run("output", "-json"))
        return time.monotonic() - began

    def changes(self):
        """What another plan would change: address of a resource to the attributes that differ."""
        self.run("plan", "-no-color", "-out", "again.plan")
        plan = json.loads(self.run("show", "-json", "again.plan").stdout)
        found = {}
        for change in plan["resource_changes"]:
            if change["change"]["actions"] != ["no-op"] and change["mode"] == "managed":
                values = [change["change"][name] or {} for name in ("before", "after")]
                found[change["address"]] = differing(*values, change["change"].get("after_unknown") or {})
        return found

    def destroy(self):
        began = time.monotonic()
        self.run("destroy", "-auto-approve", "-no-color")
        return time.monotonic() - began

    def train(self, settings=None, **arguments):
        """A night's run, with the arguments that are deployed, those of `start-job-run` on top. Its answer."""
        deployed = self.cloud.client("glue").get_job(JobName=self.outputs["training_job"])["Job"]["DefaultArguments"]
        given = {name: value for name, value in deployed.items() if name not in ("--additional-python-modules", "--TempDir")}
        if settings is not None:
            path = self.folder / "night.toml"
            path.write_text(settings)
            given["--settings"] = str(path)
        given |= {f"--{name.replace('_', '-')}": value for name, value in arguments.items()}
        argv = [part for pair in given.items() for part in pair]
        env = environment(
            **self.cloud.credentials, PYSPARK_PYTHON=sys.executable, PYSPARK_DRIVER_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1",
            TMPDIR=str(self.folder),
        )
        done = subprocess.run(
            [sys.executable, JOB, *argv], cwd=self.folder, env=env, capture_output=True, text=True, timeout=1200, check=False
        )
        assert done.returncode == 0, f"the job ended with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        return json.loads(done.stdout.strip().splitlines()[-1])

    def anabranch(self, *arguments):
        """The command at this deployment, by the output that says how."""
        env = environment(**self.cloud.credentials, **{
            name: value for name, value in self.outputs["worker_environment"].items() if name != "AWS_REGION"
        }, ANABRANCH__SOURCE__ERASURE_KEY=ERASURE_KEY)
        command = [BINARY, "--home", self.folder / "home", "--json", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return json.loads(done.stdout)

    def put(self, events):
        """A producer: puts each event under its user, and again what the stream refused."""
        kinesis = self.cloud.client("kinesis")
        for start in range(0, len(events), PUT_RECORDS_MAX):
            waiting = [
                {"PartitionKey": event["userId"], "Data": json.dumps(event).encode()} for event in events[start : start + PUT_RECORDS_MAX]
            ]
            while waiting:
                answer = kinesis.put_records(StreamName=self.outputs["stream_name"], Records=waiting)["Records"]
                waiting = [record for record, done in zip(waiting, answer) if done.get("ErrorCode")]

    def keys(self, bucket, prefix=""):
        pages = self.cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.outputs["buckets"][bucket], Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def differing(before, after, unknown):
    """Names of attributes that differ; of a block that is there once, of those in it. What only an apply tells is no difference."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new and not unknown.get(name):
            blocks = [value[0] for value in (old, new) if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)]
            found += [f"{name}.{inner}" for inner in differing(*blocks, {})] if len(blocks) == 2 else [name]
    return found


class Lists:
    """The lists in the bucket of recommendations, each object read once."""

    def __init__(self, deployment):
        self.deployment = deployment
        self.seen = {}

    def rows(self):
        location = self.deployment.outputs["lists_location"]
        bucket, _, prefix = location.removeprefix("s3://").partition("/")
        client = self.deployment.cloud.client("s3")
        for key in self.deployment.keys("recommendations", prefix):
            if key not in self.seen:
                body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
                self.seen[key] = pyarrow.parquet.read_table(io.BytesIO(body)).to_pylist()
        return [row for rows in self.seen.values() for row in rows]

    def events(self):
        return {row["eventid"] for row in self.rows()}

    def wait_for(self, ids, seconds):
        wait_until("every event has its list in the bucket", lambda: ids <= self.events() or None, seconds)
        return [row for row in self.rows() if row["eventid"] in ids]


def package(folder):
    """What `make package` makes, with functions that this machine can run."""
    package = folder / "package"
    (package / "x86_64").mkdir(parents=True)
    for name in FUNCTIONS:
        write_zip(package / "x86_64" / f"{name}.zip", BINARY.parent / name)
    built = wheel()
    assert built is not None and JOB.is_file(), "the wheel or the job is missing: run `make e2e`, which builds them"
    shutil.copy(built, package)
    shutil.copy(JOB, package)
    return package


def data_folder():
    """Complete Journey, or None."""
    folder = Path(os.environ.get("ANABRANCH_TEST_DATA", ROOT.parent / "shared" / "data")) / "completejourney"
    return folder if folder.is_dir() else None

"""A demo-made home, copied for each test, and a stream that can be started, stopped and killed on it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
import xxhash
import zstandard

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("ANABRANCH_BIN", ROOT / "target" / "release" / "anabranch"))
TRAILER_BYTES = 1024
ZSTD_SKIPPABLE_MAGIC = bytes.fromhex("5a2a4d18")
START_SECONDS = 60
DEMO_SECONDS = 900
KINESALITE = Path(sys.prefix) / "node_modules" / "kinesalite"  # what `npm ci` installs, see the Makefile

# A suite that is skipped proves nothing, so where a run must be whole (CI sets the variable) a skip is a failure. These may be: what they need
# does not come from a registry.
IS_WHOLE_RUN = os.environ.get("ANABRANCH_WHOLE_RUN") == "1"
MAY_BE_MISSING = re.compile(
    "terraform is not on PATH|the AWS provider's plugin is not on this machine|provider on this machine is older than S3 Vectors|"
    r"is not there\b|provider's schema are not in"
)


def without_skips(report):
    """The report; a skip that is not allowed has failed."""
    if IS_WHOLE_RUN and report.skipped and not hasattr(report, "wasxfail") and not MAY_BE_MISSING.search(str(report.longrepr)):
        report.outcome, report.longrepr = "failed", f"skipped where nothing may be: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return without_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return without_skips((yield))


def wait_until(what, condition, seconds=30.0):
    """Polls `condition` until it is true; its last value is returned, a failure names `what`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds} s (last seen: {value!r})")
        time.sleep(0.02)


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


MOTO_KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@contextlib.contextmanager
def running_moto():
    """moto's server in place of AWS; its URL, once it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    client = boto3.client("s3", endpoint_url=url, **MOTO_KEYS)

    def answers():
        try:
            return client.list_buckets() is not None
        except Exception:  # noqa: BLE001 - not up yet, in whatever way
            return False

    try:
        wait_until("moto answers", answers, 60)
        yield url
    finally:
        server.kill()
        server.wait()


def rust_suite(test, **settings):
    """Runs an integration test of the workspace, with the features of the Makefile's build, so that nothing is compiled twice; what it printed."""
    cargo = os.environ.get("CARGO", "cargo")
    chosen = ["--release", "--locked", "--workspace", "--test", test]
    has_nextest = subprocess.run([cargo, "nextest", "--version"], capture_output=True, check=False).returncode == 0
    runner = ["nextest", "run", *chosen, "--no-capture"] if has_nextest else ["test", *chosen, "--", "--nocapture"]
    clean = {name: value for name, value in environment(PYO3_BUILD_EXTENSION_MODULE="1", **settings).items() if name != "AWS_SESSION_TOKEN"}
    done = subprocess.run([cargo, *runner], cwd=ROOT, env=clean, capture_output=True, text=True, check=False, timeout=1800)
    told = done.stdout + done.stderr
    assert done.returncode == 0 and "skipped: set" not in told, told[-5000:]
    return told


def environment(**more):
    """This process's environment without settings of ours, so that a developer's own do not leak in."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ANABRANCH_")}
    return {**clean, **more}


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class Stream:
    """A running `anabranch stream`."""

    home: Path
    process: subprocess.Popen
    url: str
    log: Path
    extra: dict = field(default_factory=dict)

    def ask(self, path, body=None, timeout=30.0):
        """GET, or POST if there is a body. Answers of any status are returned."""
        data = body.encode() if isinstance(body, str) else body
        request = urllib.request.Request(self.url + path, data=data)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return Answer(response.status, response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read())

    def status(self):
        return self.ask("/status").json()

    def wait_committed(self, seconds=60.0):
        """Waits until every record in the log is delivered and committed."""

        def committed():
            return all(shard["committed"] >= shard["newest"] for shard in self.status()["shards"])

        wait_until("every record is committed", committed, seconds)

    def stop(self):
        """Asks it to end, as an operator does, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.process.wait(timeout=60)

    def told(self):
        """What it wrote to its terminal."""
        return self.log.read_text(errors="replace")


@dataclass
class Home:
    """A home folder and the streams started on it."""

    path: Path
    streams: list = field(default_factory=list)

    @property
    def state(self):
        return self.path / "state"

    @property
    def delivered(self):
        return self.path / "delivered"

    def start(self, **env):
        """Starts a stream and waits until it is healthy."""
        log = self.path / f"stream-{len(self.streams)}.log"
        command = [BINARY, "--home", self.path, "stream", "--listen", "127.0.0.1:0"]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.path, env=environment(**env), stdout=out, stderr=subprocess.STDOUT
            )
        stream = Stream(self.path, process, "", log)
        self.streams.append(stream)

        def url():
            if process.poll() is not None:
                pytest.fail(f"the stream ended with {process.returncode}:\n{stream.told()}")
            found = re.search(r"http://127\.0\.0\.1:\d+", stream.told())
            return found and found.group(0)

        stream.url = wait_until("the stream tells its address", url, START_SECONDS)
        wait_until("the stream is healthy", lambda: stream.ask("/healthz").status == 200, START_SECONDS)
        return stream

    def end(self):
        for stream in self.streams:
            if stream.process.poll() is None:
                stream.kill()

    def objects(self):
        """Delivered objects that are not hidden (temporary) files."""
        return sorted(
            path
            for path in (self.delivered / "recommendations").rglob("*.jsonl.zst")
            if not any(part.startswith(".") for part in path.relative_to(self.delivered).parts)
        )

    def lists(self):
        """Every delivered list, each object checked against its trailer; the chains are checked too."""
        lists, reach = [], {}
        for path in self.objects():
            trailer, lines = read_object(path)
            branch = (path.parts[len(self.delivered.parts) + 1], trailer["shard"])
            reach.setdefault(branch, []).append((trailer["after"], trailer["first"], trailer["last"]))
            lists += lines
        for branch, ranges in reach.items():
            for before, (after, first, last) in zip([None, *sorted(ranges)], sorted(ranges)):
                assert after < first <= last, f"{branch}: a range runs backwards"
                assert before is None or after == before[2], f"{branch}: a gap or an overlap after {before}"
        return lists

    def dead_letters(self):
        letters = []
        for path in sorted((self.delivered / "dead-letters").rglob("*.jsonl.zst")):
            letters += [json.loads(line) for line in decompress(path.read_bytes()).splitlines()]
        return letters


def decompress(data):
    """What any zstd reader sees: the lines; the trailer is a skippable frame."""
    return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()


def read_object(path):
    """Trailer and lists of a delivered object, verified as docs/formats.md says."""
    data = path.read_bytes()
    trailer_bytes = data[-TRAILER_BYTES:]
    assert trailer_bytes[:4] == ZSTD_SKIPPABLE_MAGIC, f"{path}: no trailer"
    assert int.from_bytes(trailer_bytes[4:8], "little") == TRAILER_BYTES - 8, f"{path}: size of the trailer"
    trailer = json.loads(trailer_bytes[8:])
    lines = decompress(data)
    assert trailer["version"] == 2
    for name in ("after", "first", "last"):
        trailer[name] = int(trailer[name])  # a position is text: Kinesis's numbers pass 64 bits
    assert len(lines) == trailer["bytes"], f"{path}: length"
    assert xxhash.xxh3_128_hexdigest(lines) == trailer["digest"], f"{path}: digest"
    shard, after = path.name.split(".")[0].split("-")
    assert (int(shard), int(after)) == (trailer["shard"], trailer["after"]), f"{path}: its name"
    counts = trailer["counts"]
    outcomes = counts["delivered"] + counts["superseded"] + counts["duplicate"] + counts["late"]
    assert counts["accepted"] == outcomes, f"{path}: {counts}"
    lists = [json.loads(line) for line in lines.splitlines()]
    assert len(lists) == counts["delivered"], f"{path}: {counts}"
    return trailer, lists


@pytest.fixture(scope="session")
def made_home(tmp_path_factory):
    """The home that `anabranch demo --exit` leaves behind; never changed by a test."""
    if not BINARY.is_file():
        pytest.fail(f"{BINARY} is not there: run `cargo build --release`, or name the binary in ANABRANCH_BIN")
    path = tmp_path_factory.mktemp("made") / "home"
    path.mkdir()
    done = subprocess.run(
        [BINARY, "demo", "--home", path, "--exit"],
        cwd=path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEMO_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        pytest.fail(f"the demo ended with {done.returncode}")
    return path


@pytest.fixture
def home(made_home, tmp_path):
    """A copy of the demo's home without what the demo delivered; its streams are ended with the test."""
    path = tmp_path / "home"
    shutil.copytree(made_home, path, ignore=shutil.ignore_patterns("shop", "scratch"))
    home = Home(path)
    yield home
    home.end()


def start_server(command, url, log, env):
    """Starts another project's server and waits until it answers, whatever it answers."""
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=log.parent, env=env, stdout=out, stderr=subprocess.STDOUT)

    def answers():
        if server.poll() is not None:
            pytest.fail(f"{command[0]} ended with {server.returncode}:\n{log.read_text(errors='replace')[-4000:]}")
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    try:
        wait_until(f"{command[0]} answers", answers, START_SECONDS)
    except BaseException:
        server.kill()
        raise
    return server


@pytest.fixture
def ministack(tmp_path):
    """The address of Kinesis, Firehose, Lambda, DynamoDB and S3 in one process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = environment(
        BIND_HOST="127.0.0.1", MINISTACK_HOST="127.0.0.1", GATEWAY_PORT=str(port), IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0", LAMBDA_EXECUTOR="local", AWS_ENDPOINT_URL=url,
    )
    log = tmp_path / "ministack.log"
    command = [str(Path(sys.executable).with_name("ministack"))]
    server = start_server(command, f"{url}/_ministack/health", log, settings)
    yield url
    server.terminate()
    server.wait(timeout=30)
    print(log.read_text(errors="replace")[-4000:])  # pytest shows it with a failure


@pytest.fixture
def kinesalite(tmp_path):
    """A Kinesis whose numbers are compared as numbers: ministack's have leading zeros and are compared as text."""
    node = Path(sys.executable).with_name("node")
    assert node.exists() and KINESALITE.is_dir(), "node or kinesalite is not there: `make test` installs them"
    port = free_port()
    options = {"createStreamMs": 10, "deleteStreamMs": 10, "updateStreamMs": 10, "shardLimit": 50}
    # Its own command listens on every interface.
    program = f"require({json.dumps(str(KINESALITE))})({json.dumps(options)}).listen({port}, '127.0.0.1')"
    url = f"http://127.0.0.1:{port}"
    server = start_server([str(node), "-e", program], url, tmp_path / "kinesalite.log", environment())
    yield url
    server.kill()
    server.wait()


@pytest.fixture
def workers(made_home, tmp_path):
    """Makes homes of workers, all with the demo's lake and model."""
    homes = []

    def make(name):
        path = tmp_path / name
        path.mkdir()
        homes.append(Home(path))
        return homes[-1]

    yield make, made_home / "lake"
    for home in homes:
        home.end()

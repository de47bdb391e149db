"""The abandoned cart, from the event to a receiver that checks the signature: cancelled by a purchase, retried, forgotten.

On one machine; tests/test_kinesis_worker.py has two workers of which one sends.
"""

import hashlib
import hmac
import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import BINARY, environment, wait_until
from journeys import anabranch, run

SECRET = b"a secret of more than sixteen bytes"


class Receiver:
    """What docs/notifications.md tells a receiver to do; the first `busy` requests are answered with 503."""

    def __init__(self, busy=0):
        self.bodies, self.bad, self.busy = {}, [], busy
        self.lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(self.headers, body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, headers, body):
        timestamp = headers["Anabranch-Timestamp"]
        signed = hmac.new(SECRET, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        is_ours = hmac.compare_digest("v1=" + signed, headers["Anabranch-Signature"])
        with self.lock:
            if not is_ours or abs(time.time() - int(timestamp)) > 300:
                self.bad.append(body)
                return 401
            if self.busy > 0:
                self.busy -= 1
                return 503
            self.bodies.setdefault(headers["Anabranch-Notification-Id"], []).append(json.loads(body))
            return 204


@pytest.fixture
def receiver():
    receiver = Receiver(busy=1)
    yield receiver
    receiver.server.shutdown()


def settings(home, receiver, delay_minutes):
    (home.path / "keys").mkdir(exist_ok=True)
    (home.path / "keys" / "webhook.secret").write_bytes(SECRET + b"\n")
    (home.path / "anabranch.toml").write_text(
        f"""
[notify]
channel = "webhook"
[notify.webhook]
url = "{receiver.url}"
secret_file = "keys/webhook.secret"
[notify.rules.thanks]
event_types = ["purchase"]
cool_down_minutes = 0
[notify.rules.abandoned-cart]
event_types = ["cart"]
delay_minutes = {delay_minutes}
unless = ["purchase"]
cool_down_minutes = 0
"""
    )


def put(stream, user, kind, item):
    event = {"userId": user, "itemId": item, "eventType": kind, "sentAt": int(time.time() * 1000)}
    assert stream.ask("/events", json.dumps(event)).status == 200


def metric(stream, name):
    lines = stream.ask("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("anabranch_" + name))


def test_notifications_reach_a_receiver_signed_and_once(home, receiver):
    settings(home, receiver, delay_minutes=1)
    stream = home.start()
    item = stream.ask("/recommendations/nobody?n=1").json()["items"][0]["itemId"]
    put(stream, "left", "cart", item)
    put(stream, "bought", "cart", item)
    put(stream, "gone", "cart", item)
    put(stream, "bought", "purchase", item)
    # At once, though the receiver was busy at first.
    wait_until("the thanks arrive", lambda: len(receiver.bodies) == 1)
    [(identity, [thanks])] = receiver.bodies.items()
    assert (thanks["rule"], thanks["userId"], thanks["eventItemId"]) == ("thanks", "bought", item)
    assert thanks["notificationId"] == identity and len(thanks["items"]) == 5
    assert metric(stream, 'notifications_total{outcome="retried"}') == 1
    stream.wait_committed()

    forgotten = json.loads(run(anabranch(home.path, "--json", "forget", "--user", "gone")))
    assert forgotten["state"]["notices"] == 1
    # What waits outlives the process.
    stream.kill()
    stream = home.start()
    wait_until("the cart is abandoned", lambda: len(receiver.bodies) == 2, seconds=90)
    wait_until("the other's is not", lambda: metric(stream, "notifications_dropped_total") == 1)
    abandoned = [bodies for bodies in receiver.bodies.values() if bodies[0]["rule"] == "abandoned-cart"]
    assert [[body["userId"] for body in bodies] for bodies in abandoned] == [["left"]]
    assert abandoned[0][0]["dueTimeMs"] - abandoned[0][0]["arrivalTimeMs"] == 60_000
    assert receiver.bad == []
    assert stream.stop() == 0


def test_a_secret_that_is_none_is_refused_with_its_remedy(home, receiver):
    settings(home, receiver, delay_minutes=1)
    (home.path / "keys" / "webhook.secret").write_bytes(b"short\n")
    done = subprocess.run(
        [BINARY, "--home", home.path, "stream", "--listen", "127.0.0.1:0"],
        cwd=home.path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0 and "openssl rand -hex 32" in done.stderr

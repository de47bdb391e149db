"""A small HTTP/1.1 proxy that stands between a client and a service of AWS and makes the service misbehave by a seed.

Faults are of the kinds that a real network and a real service have, in each service's own words:

| kind | the request reached the service | the client sees |
|---|---|---|
| `throttled` | no | the service's own way to say "slower" |
| `error` | no | 500 or 503 |
| `cut-before` | no | a closed connection |
| `late` | yes, after the client gave up | its own time-out |
| `cut-after` | yes | a closed connection |
| `half` | yes | half an answer, then a closed connection |
| `slow` | yes | its own time-out |
| `partial` | a part of its records | the service's answer, with the others failed (or unprocessed) |
| `expired` | no | an iterator that expired (`GetRecords`) |

Which call meets which fault follows from the seed, the operation and how many such calls came before: the same run meets
the same faults as far as threads keep their order. A script for the next calls of an operation goes before chance, so that
a test can be sure of what it wants. Standard library only; nothing here knows what is tested.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authorization", "expect"}
TARGETS = {"Kinesis_20131202": "kinesis", "DynamoDB_20120810": "dynamodb", "Firehose_20150804": "firehose"}
TIMEOUT_S = 60

# What a service says when it is asked too much: status, code.
THROTTLES = {
    "kinesis": (400, "ProvisionedThroughputExceededException"),
    "dynamodb": (400, "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"),
    "firehose": (503, "ServiceUnavailableException"),
    "sns": (429, "Throttled"),
    "s3": (503, "SlowDown"),
}
# These operations of Kinesis have another word for it.
LIMITED = {"ListShards", "DescribeStreamSummary", "DescribeStream", "RegisterStreamConsumer"}
# What fails in part, inside a good answer: where a request's records lie, where their outcomes, and where the count of those
# that failed. `BatchGetItem` has `UnprocessedKeys` instead.
PARTIAL = {
    ("kinesis", "PutRecords"): ("Records", "Records", "FailedRecordCount"),
    ("firehose", "PutRecordBatch"): ("Records", "RequestResponses", "FailedPutCount"),
}


@dataclass
class Request:
    """One request, as the proxy understands it."""

    service: str
    operation: str
    method: str
    path: str
    headers: list
    body: bytes


@dataclass
class Answer:
    status: int
    headers: list
    body: bytes


@dataclass
class Faults:
    """How often which kind strikes."""

    seed: int
    rates: dict = field(default_factory=dict)  # kind: share of the calls
    slow_s: float = 0.0  # longer than the client waits

    def choose(self, request, number):
        draw = random.Random(f"{self.seed}/{request.service}/{request.operation}/{number}").random()
        for kind, rate in self.rates.items():
            if kind == "partial" and not is_divisible(request):
                continue
            if kind == "expired" and request.operation != "GetRecords":
                continue
            if draw < rate:
                return kind
            draw -= rate
        return None


def is_divisible(request):
    return (request.service, request.operation) in PARTIAL or request.operation == "BatchGetItem"


class Proxy:
    """Listens on a free port of the loopback and forwards to `upstream`."""

    def __init__(self, upstream, faults):
        self.upstream = urlsplit(upstream)
        self.faults = faults
        self.struck = Counter()  # (service, kind)
        self.calls = Counter()  # (service, operation)
        self.scripts = {}  # (service, operation): kinds that its next calls meet, `None` for none
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = TIMEOUT_S

            def handle_any(self):
                proxy.serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass  # a client that went away, as clients of a faulty service do

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def script(self, service, operation, *kinds):
        """What the next calls of an operation meet."""
        with self.lock:
            self.scripts.setdefault((service, operation), deque()).extend(kinds)

    def is_played(self):
        """Whether every script came to its end."""
        with self.lock:
            return not any(self.scripts.values())

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def kinds(self, service=None):
        """Kinds that struck."""
        return {kind for of, kind in self.struck if service in (None, of)}

    def serve(self, handler):
        body = read_body(handler)
        request = understand(handler.command, handler.path, list(handler.headers.items()), body)
        kind = self.next_fault(request)
        if kind == "throttled":
            return send(handler, refusal(request, is_throttle=True))
        if kind == "error":
            return send(handler, refusal(request, is_throttle=False))
        if kind == "expired":
            return send(handler, json_error(400, "ExpiredIteratorException", "Iterator expired."))
        if kind == "cut-before":
            return cut(handler)
        if kind == "late":
            time.sleep(self.faults.slow_s)
            self.forward(request)
            return cut(handler)
        answer = self.in_part(request) if kind == "partial" else self.forward(request)
        if kind == "cut-after":
            return cut(handler)
        if kind == "slow":
            time.sleep(self.faults.slow_s)
            return cut(handler)
        if kind == "half":
            send(handler, answer, half=True)
            return cut(handler)
        return send(handler, answer)

    def next_fault(self, request):
        of = (request.service, request.operation)
        with self.lock:
            script = self.scripts.get(of)
            kind = script.popleft() if script else self.faults.choose(request, self.calls[of])
            self.calls[of] += 1
            if kind:
                self.struck[request.service, kind] += 1
        return kind

    def forward(self, request, body=None):
        body = request.body if body is None else body
        connection = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=TIMEOUT_S)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in HOP_BY_HOP | {"host", "content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Host", self.upstream.netloc)
            connection.putheader("Connection", "close")
            if body or request.method in ("POST", "PUT"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def in_part(self, request):
        """Forwards some of the records, and answers for the others what the service would."""
        call = json.loads(request.body)
        chance = random.Random(f"{self.faults.seed}/{request.body.hex()}")
        if request.operation == "BatchGetItem":
            return self.in_part_batch_get(request, call, chance)
        where, outcomes, count = PARTIAL[request.service, request.operation]
        records = call[where]
        chosen = [chance.random() < 0.5 for _ in records]
        if all(chosen):
            chosen[chance.randrange(len(records))] = False
        call[where] = [record for record, is_chosen in zip(records, chosen) if is_chosen]
        _, code = THROTTLES[request.service]
        if not call[where]:
            answer, taken = Answer(200, [("Content-Type", "application/x-amz-json-1.1")], b""), {count: 0, outcomes: []}
        else:
            answer = self.forward(request, json.dumps(call).encode())
            taken = json.loads(answer.body)
            if answer.status != 200:
                return answer
        told = iter(taken[outcomes])
        failed = {"ErrorCode": code, "ErrorMessage": "Rate exceeded."}
        taken[outcomes] = [next(told) if is_chosen else failed for is_chosen in chosen]
        taken[count] += chosen.count(False)
        return Answer(200, answer.headers, json.dumps(taken).encode())

    def in_part_batch_get(self, request, call, chance):
        unprocessed = {}
        for table, asked in call["RequestItems"].items():
            keep = [key for key in asked["Keys"] if chance.random() < 0.5] or asked["Keys"][:1]
            left = [key for key in asked["Keys"] if key not in keep]
            if left:
                unprocessed[table] = {**asked, "Keys": left}
            asked["Keys"] = keep
        answer = self.forward(request, json.dumps(call).encode())
        if answer.status != 200:
            return answer
        read = json.loads(answer.body)
        read["UnprocessedKeys"] = {**read.get("UnprocessedKeys", {}), **unprocessed}
        return Answer(200, answer.headers, json.dumps(read).encode())


def read_body(handler):
    if "chunked" in handler.headers.get("Transfer-Encoding", "").lower():
        body = b""
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        while handler.rfile.readline().strip():
            pass
        return body
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


def understand(method, path, headers, body):
    """Which service is asked for what."""
    named = {name.lower(): value for name, value in headers}
    prefix, _, operation = named.get("x-amz-target", "").partition(".")
    if prefix in TARGETS:
        return Request(TARGETS[prefix], operation, method, path, headers, body)
    if named.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        action = parse_qs(body.decode(errors="replace")).get("Action", [""])[0]
        return Request("sns", action, method, path, headers, body)
    is_listing = "list-type=" in path
    return Request("s3", "LIST" if is_listing else method, method, path, headers, body)


def json_error(status, code, message):
    body = json.dumps({"__type": code, "message": message}).encode()
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", "00000000-0000-4000-8000-000000000000")]
    return Answer(status, headers, body)


def refusal(request, is_throttle):
    if is_throttle:
        status, code = THROTTLES[request.service]
        if request.service == "kinesis" and request.operation in LIMITED:
            code = "LimitExceededException"
        message = "Rate exceeded."
    else:
        # As often the one as the other, by what was asked.
        status, code = (500, "InternalServerError") if len(request.body) % 2 else (503, "ServiceUnavailable")
        if request.service == "s3":
            status, code = (500, "InternalError") if len(request.path) % 2 else (503, "ServiceUnavailable")
        message = "We encountered an internal error. Please try again."
    if request.service == "s3":
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
        return Answer(status, [("Content-Type", "application/xml")], b"" if request.method == "HEAD" else body)
    if request.service == "sns":
        body = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        return Answer(status, [("Content-Type", "text/xml")], body.encode())
    return json_error(status, code, message)


def send(handler, answer, half=False):
    handler.send_response_only(answer.status)
    length = None
    for name, value in answer.headers:
        if name.lower() == "content-length":
            length = value
        elif name.lower() not in HOP_BY_HOP and not (name.lower() == "x-amz-crc32"):
            handler.send_header(name, value)
    # Of what a HEAD asks for, the length is told and nothing sent.
    is_head = handler.command == "HEAD"
    handler.send_header("Content-Length", length if is_head and length else str(len(answer.body)))
    handler.end_headers()
    if not is_head:
        handler.wfile.write(answer.body[: len(answer.body) // 2] if half else answer.body)
    handler.wfile.flush()


def cut(handler):
    """Closes the connection without another word."""
    handler.close_connection = True

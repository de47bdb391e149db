"""Amazon S3 Vectors for tests: moto's server behind a door that answers what moto lacks.

moto stores and lists, but has no QueryVectors, turns no pages and knows neither prefixes, segments nor limits. This door
answers queries by brute force from what moto stores, pages and divides listings, and refuses what the service would
refuse. It also checks every request's signature with botocore's own signer.
"""

import http.client
import http.server
import json
import math
import re
import threading
import zlib
from hashlib import sha256
from hmac import compare_digest

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

PAGE = 30  # of a query
LIST_PAGE = 400
TOP_K_MAX = 100
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<day>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, ?"
    r"SignedHeaders=(?P<signed>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
LISTS_MAX = {"/PutVectors": ("vectors", 500), "/GetVectors": ("keys", 100), "/DeleteVectors": ("keys", 500)}


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def invalid(message):
    return Refused(400, "ValidationException", message)


def check_signature(method, path, headers, body, secret):
    """Raises unless botocore's signer gives the same signature for what was received."""
    found = AUTHORIZATION.fullmatch(headers.get("Authorization", ""))
    date = headers.get("x-amz-date", "")
    if not found or found["service"] != "s3vectors" or not re.fullmatch(found["day"] + r"T\d{6}Z", date):
        raise Refused(403, "AccessDeniedException", "no signature for s3vectors")
    signed = found["signed"].split(";")
    if not {"host", "x-amz-date", "content-type"} <= set(signed):
        raise Refused(403, "AccessDeniedException", f"signed are only {signed}")
    # Whoever does not name the body's digest signs it all the same.
    digest = sha256(body).hexdigest()
    if headers.get("x-amz-content-sha256", digest) != digest:
        raise Refused(403, "AccessDeniedException", "the body is not the signed one")
    request = AWSRequest(
        method=method, url=f"http://{headers['Host']}{path}", data=body,
        headers={name: headers[name] for name in signed},
    )
    request.context["timestamp"] = date
    signer = SigV4Auth(Credentials(found["key"], secret), "s3vectors", found["region"])
    text = signer.string_to_sign(request, signer.canonical_request(request))
    if not compare_digest(signer.signature(text, request), found["signature"]):
        raise Refused(403, "AccessDeniedException", "the signature is not botocore's")


def holds(condition, metadata):
    """Whether a filter holds, in its strictest sense: what the user guide leaves open is false."""
    if not condition:
        raise invalid("a filter is empty")
    return all([entry_holds(key, wanted, metadata) for key, wanted in condition.items()])


def entry_holds(key, wanted, metadata):
    if key in ("$and", "$or"):
        if not wanted:
            raise invalid(f"{key} is empty")
        held = [holds(entry, metadata) for entry in wanted]
        return all(held) if key == "$and" else any(held)
    if key.startswith("$") or key in ("ab-vector", "ab-metadata"):
        raise invalid(f"{key} cannot be filtered by")
    return all([compares(operator, value, metadata.get(key)) for operator, value in wanted.items()])


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(found, wanted):
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def compares(operator, wanted, found):
    if operator == "$exists":
        return (found is not None) == wanted
    if operator == "$eq":
        return any(same(value, wanted) for value in found) if isinstance(found, list) else same(found, wanted)
    if operator in ("$gte", "$lte") and is_number(wanted):
        return is_number(found) and (found >= wanted if operator == "$gte" else found <= wanted)
    raise invalid(f"{operator} {wanted!r} is not allowed")


def distance(a, b):
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return 1.0 - sum(x * y for x, y in zip(a, b, strict=True)) / length


def check_vector(vector):
    metadata = vector["metadata"]
    filterable = {key: value for key, value in metadata.items() if key not in ("ab-vector", "ab-metadata")}
    if not any(vector["data"]["float32"]):
        raise invalid(f"vector {vector['key']!r} is zero")
    if len(json.dumps(filterable, ensure_ascii=False, separators=(",", ":")).encode()) > 2048 or len(metadata) > 50:
        raise invalid(f"metadata of {vector['key']!r} is too large")
    for value in filterable.values():
        if not isinstance(value, (str, bool, int, float, list)) or value == []:
            raise invalid(f"metadata of {vector['key']!r} is not allowed")


def page(entries, start, size):
    rest = {"nextToken": str(start + size)} if start + size < len(entries) else {}
    return entries[start : start + size], rest


class VectorsService:
    """A server on a free port of this machine, in front of moto's server on `moto_port`."""

    def __init__(self, moto_port, secret="test"):
        self.moto_port, self.secret = moto_port, secret
        self.operations, self.denied = set(), []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                try:
                    check_signature("POST", self.path, self.headers, body, service.secret)
                    status, headers, answer = service.answer(self.path, self.headers, body)
                except Refused as refused:
                    if refused.status == 403:
                        service.denied.append(refused.message)
                    status, answer = refused.status, json.dumps({"message": refused.message}).encode()
                    headers = {"x-amzn-ErrorType": refused.code}
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path, headers, body):
        """Status, headers and body of the answer to one request."""
        asked = json.loads(body)
        self.operations.add(path.removeprefix("/"))
        if path in LISTS_MAX:
            name, most = LISTS_MAX[path]
            if not 1 <= len(asked[name]) <= most or len(body) > 20 << 20:
                raise invalid(f"{name} has 1 to {most} entries in 20 MiB")
        if path == "/PutVectors":
            for vector in asked["vectors"]:
                check_vector(vector)
        if path == "/QueryVectors":
            return 200, {"Content-Type": "application/json"}, json.dumps(self.query(asked, headers)).encode()
        status, answered, answer = self.forward(path, headers, body)
        if status == 200 and path in ("/ListVectors", "/ListIndexes"):
            answer = json.dumps(self.divided(path, asked, json.loads(answer))).encode()
        return status, answered, answer

    def forward(self, path, headers, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.moto_port, timeout=60)
        try:
            kept = {name: headers[name] for name in ("Authorization", "x-amz-date", "Content-Type")}
            connection.request("POST", path, body=body, headers=kept)
            response = connection.getresponse()
            names = ("content-type", "x-amzn-errortype")
            answered = {name: value for name, value in response.getheaders() if name.lower() in names}
            return response.status, answered, response.read()
        finally:
            connection.close()

    def divided(self, path, asked, whole):
        """What moto answered whole, by prefix, segment and page."""
        start = int(asked.get("nextToken", 0))
        if path == "/ListIndexes":
            indexes = [index for index in whole["indexes"] if index["indexName"].startswith(asked.get("prefix", ""))]
            entries, rest = page(indexes, start, min(asked.get("maxResults", 500), LIST_PAGE))
            return {"indexes": entries, **rest}
        count, index = asked.get("segmentCount", 1), asked.get("segmentIndex", 0)
        vectors = [vector for vector in whole["vectors"] if zlib.crc32(vector["key"].encode()) % count == index]
        entries, rest = page(vectors, start, min(asked.get("maxResults", 500), LIST_PAGE))
        return {"vectors": entries, **rest}

    def query(self, asked, headers):
        if not 1 <= asked["topK"] <= TOP_K_MAX or not any(asked["queryVector"]["float32"]):
            raise invalid("topK is 1 to 100, and the query is not zero")
        names = {key: asked[key] for key in ("vectorBucketName", "indexName")}
        listed = json.dumps({**names, "returnData": True, "returnMetadata": True}).encode()
        status, _, answer = self.forward("/ListVectors", headers, listed)
        if status != 200:
            raise Refused(404, "NotFoundException", answer.decode())
        query = asked["queryVector"]["float32"]
        found = [
            (distance(query, vector["data"]["float32"]), vector["key"], vector["metadata"])
            for vector in json.loads(answer)["vectors"]
            if "filter" not in asked or holds(asked["filter"], vector["metadata"])
        ]
        found.sort(key=lambda entry: entry[:2])
        entries, rest = page(found[: asked["topK"]], int(asked.get("nextToken", 0)), PAGE)
        vectors = [{"key": key, "distance": near, "metadata": metadata} for near, key, metadata in entries]
        return {"vectors": vectors, "distanceMetric": "cosine", **rest}

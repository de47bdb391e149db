"""The job of `lambda/examples/batch.rs` in Python with numpy, as one would write it for speed: everything a batch can share
is one array operation (the fold-in's systems are solved together, scores are one matrix product, neighbours one
`bincount`), and the rest is as little Python a record as there can be.

Parsing, base64, histories decoded from bytes and encoded again, weights with a half-life, iALS fold-in, neighbours and
popularity blended, the 20 best of 41,000 items, a JSON line a record with the fields of ours. The model is random, of
the same shape; one thread. Prints CPU milliseconds a batch, the median of several. With `gemm` for arguments: GF/s of
this machine's matrix products on one core: that of the scores of 1,024 users and 40,000 items of 64 dimensions, which bounds lists that skip nothing,
and a square one, which need not wait for memory.
"""

import base64
import hashlib
import json
import os
import statistics
import sys
import time

for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import numpy as np  # noqa: E402  (the number of threads is read at the import)

RECORDS, BATCHES, K = 1_000, 5, 20
NOW_MS, HALF_LIFE_MS = 1_700_000_000_000, 90 * 86_400_000
ENTRY = np.dtype([("time", "<i8"), ("item", "<u4"), ("kind", "u1"), ("event", "<u8")])


class Model:
    def __init__(self, items, dim, neighbours=100):
        chance = np.random.default_rng(7)
        self.items, self.dim = items, dim
        self.names = [f"item-{i}" for i in range(items)]
        self.index = {name: i for i, name in enumerate(self.names)}
        self.factors = (chance.standard_normal((items, dim)) * 0.1).astype(np.float32)
        self.base = 0.01 * (self.factors.T @ self.factors) + 0.1 * np.eye(dim, dtype=np.float32)
        self.popularity = chance.random(items, dtype=np.float32) * np.float32(0.05)
        self.neighbours = chance.integers(0, items, (items, neighbours), dtype=np.int32)
        self.similarities = chance.random((items, neighbours), dtype=np.float32)


def histories(model, length):
    chance = np.random.default_rng(11)
    stored = {}
    for user in range(RECORDS):
        entries = np.zeros(length, ENTRY)
        entries["time"] = np.sort(NOW_MS - 1_000_000 - chance.integers(0, 90 * 86_400_000, length))
        entries["item"] = chance.choice(model.items, length, replace=False)
        entries["event"] = chance.integers(0, 2**63, length)
        stored[f"user-{user}"] = entries.tobytes()
    return stored


def event(model, number):
    records = []
    for n in range(RECORDS):
        sequence = number * RECORDS + n
        data = {"userId": f"user-{n}", "itemId": model.names[sequence * 7919 % model.items], "eventType": "view",
                "eventId": f"e-{sequence}", "sentAt": NOW_MS - 900_000 + sequence}
        records.append({
            "eventSource": "aws:kinesis",
            "eventID": f"shardId-000000000006:4959033827149025660855969253836157{sequence + 1:022}",
            "kinesis": {"kinesisSchemaVersion": "1.0", "partitionKey": f"user-{n}",
                        "sequenceNumber": f"4959033827149025660855969253836157{sequence + 1:022}",
                        "data": base64.b64encode(json.dumps(data).encode()).decode(),
                        "approximateArrivalTimestamp": NOW_MS / 1000},
        })
    return json.dumps({"Records": records})


def handle(model, stored, text):
    records = json.loads(text)["Records"]
    events = [json.loads(base64.b64decode(record["kinesis"]["data"])) for record in records]
    # Join: the history with the event, unless it is there already.
    joined = []
    for one in events:
        entries = np.frombuffer(stored[one["userId"]], ENTRY)
        key = int.from_bytes(hashlib.blake2b(one["eventId"].encode(), digest_size=8).digest(), "little")
        if not (entries["event"] == key).any():
            new = np.array([(one["sentAt"], model.index[one["itemId"]], 0, key)], ENTRY)
            entries = np.concatenate([entries, new])
        joined.append(entries)
    # Weights of all rows at once.
    lengths = np.array([len(entries) for entries in joined])
    flat = np.concatenate(joined)
    owners = np.repeat(np.arange(len(joined)), lengths)
    newest = np.maximum.reduceat(flat["time"], np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    weights = np.exp2((flat["time"] - newest[owners]) / HALF_LIFE_MS).astype(np.float32)
    # Fold-in: one system a user, solved together.
    begins = np.concatenate([[0], np.cumsum(lengths)])
    systems = np.empty((len(joined), model.dim, model.dim), np.float32)
    rights = np.empty((len(joined), model.dim), np.float32)
    for n in range(len(joined)):
        rows = model.factors[flat["item"][begins[n]:begins[n + 1]]]
        weighted = rows * weights[begins[n]:begins[n + 1], None]
        systems[n] = model.base + weighted.T @ rows
        rights[n] = weighted.sum(axis=0)
    users = np.linalg.solve(systems, rights[..., None])[..., 0]
    lines = []
    for begin in range(0, len(joined), 100):
        end = min(begin + 100, len(joined))
        scores = users[begin:end] @ model.factors.T
        scores += model.popularity
        part = slice(begins[begin], begins[end])
        cells = (owners[part] - begin)[:, None] * model.items + model.neighbours[flat["item"][part]]
        shares = model.similarities[flat["item"][part]] * weights[part, None]
        scores += np.bincount(cells.ravel(), shares.ravel(), minlength=scores.size).reshape(scores.shape)
        best = np.argpartition(scores, -K, axis=1)[:, -K:]
        values = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        best, values = np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)
        for n in range(begin, end):
            one, kinesis = events[n], records[n]["kinesis"]
            name = f"clicks/{one['userId']}/{one['eventId']}".encode()
            lines.append(json.dumps({
                "recommendationId": hashlib.blake2b(name, digest_size=16).hexdigest(),
                "userId": one["userId"], "eventId": one["eventId"], "eventType": one["eventType"],
                "eventItemId": one["itemId"], "eventTimeMs": one["sentAt"],
                "arrivalTimeMs": int(kinesis["approximateArrivalTimestamp"] * 1000), "trigger": "event",
                "shardId": "shardId-000000000006", "sequenceNumber": kinesis["sequenceNumber"],
                "snapshotVersion": "0123456789abcdef", "overlayVersion": "0",
                "items": [{"itemId": model.names[i], "score": s}
                          for i, s in zip(best[n - begin].tolist(), values[n - begin].tolist())],
            }))
    for one, entries in zip(events, joined):
        stored[one["userId"]] = entries.tobytes()
    return lines


def gemm_gflops(rows, inner, columns):
    left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    out = np.empty((rows, columns), np.float32)
    rates = []
    for _ in range(20):
        begin = time.process_time()
        np.matmul(left, right, out=out)
        rates.append(2 * rows * inner * columns / max(time.process_time() - begin, 1e-9) * 1e-9)
    return sorted(rates)[-3]


def batch_cpu_ms(items, dim, length):
    model = Model(items, dim)
    stored = histories(model, length)
    times = []
    for number in range(BATCHES):
        text = event(model, number)
        begin = time.process_time()
        lines = handle(model, stored, text)
        json.dumps({"batchItemFailures": []})
        times.append((time.process_time() - begin) * 1000)
        assert len(lines) == RECORDS
    return statistics.median(times)


def main():
    if sys.argv[1:] == ["gemm"]:
        print(json.dumps({"scoresGflops": gemm_gflops(1024, 64, 40_000), "squareGflops": gemm_gflops(1024, 1024, 1024)}))
    else:
        print(json.dumps({"cpuMsPerBatch": batch_cpu_ms(*map(int, sys.argv[1:4]))}))


if __name__ == "__main__":
    main()

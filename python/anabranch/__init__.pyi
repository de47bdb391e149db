"""Anabranch's core for Python: train, fold in, recommend, evaluate, publish, and the ETL's two pure functions.

Everything here is the command's own Rust code, so a notebook, a Spark executor and the `anabranch` command reach the same bytes.

Conventions
- Arrays are numpy, C-contiguous. Factors are `float32 [n, dim]`, Gramians `float64 [dim, dim]`. An array of another type or layout
  is copied once; one of the right type (a memory map too) is read where it lies.
- A sparse matrix is a scipy sparse matrix (unsorted rows are sorted, repeated entries added up, in a copy), or its three CSR arrays
  `(indptr, indices, data)`, whose indices must ascend strictly in each row. Data are positive and finite. float32 data, int32 or uint32 indices
  and int64 offsets are read where they lie.
- Arrow goes in as anything with `__arrow_c_stream__` or `__arrow_c_array__` (pyarrow, polars, DuckDB), and comes out as pyarrow.
- Ids are `str`, 1 to 256 bytes of UTF-8. Times are milliseconds since 1970 (`_ms`), as `int`.
- Settings are a `Settings`, TOML text, or a dict. Where a function takes `ials`, a dict is the table `[model.ials]` alone.
- The GIL is released while anything is computed, read or written. Threads: `set_num_threads`. Arrays are read where they lie, so no other
  thread may change an array that a call was given before it returns.
- An error names place and remedy and is one of: `InputError` (a `ValueError`: mend the argument), `NotFoundError` (a
  `FileNotFoundError`), `RetryError` (an `OSError`: may succeed later), `FullError` (an `OSError`: make room), `CorruptError` (a
  `ValueError`: stored bytes are not what was written), `InternalError` (a `RuntimeError`: report it).
- Objects with "picklable" in their description travel to Spark's executors as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from os import PathLike
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
Csr: TypeAlias = Any  # scipy.sparse.csr_matrix, csr_array, or (indptr, indices, data)
Arrow: TypeAlias = Any  # an object with __arrow_c_stream__ or __arrow_c_array__
Path: TypeAlias = str | PathLike[str]
Hide: TypeAlias = Literal["nothing", "seen", "everything"]
Ials: TypeAlias = Settings | Mapping[str, Any] | str | None

__version__: str

# ---------------------------------------------------------------------------------------------------------------- errors

class InputError(ValueError): ...
class NotFoundError(FileNotFoundError): ...
class RetryError(OSError): ...
class FullError(OSError): ...
class CorruptError(ValueError): ...
class InternalError(RuntimeError): ...

# --------------------------------------------------------------------------------------------------------------- threads

def set_num_threads(threads: int) -> None:
    """Threads that every later call computes on; 0 takes `RAYON_NUM_THREADS`, or one for each core (the default). In a Spark
    executor give the number of cores of a task. Results do not depend on it. A process that is forked gets threads of its own."""

def num_threads() -> int: ...

# -------------------------------------------------------------------------------------------------------------- settings

class Settings:
    """The tables `[events]`, `[etl]`, `[model]` and `[training]` of `anabranch.toml`, checked. Picklable.

    Takes TOML text, a dict of the same tree, or nothing (the defaults). Other tables are the command's and are passed over; a name
    that one of the four does not have raises InputError. Environment variables are not read.
    """

    def __init__(self, settings: str | Mapping[str, Any] | None = None) -> None: ...
    @staticmethod
    def load(path: Path) -> Settings:
        """Reads a TOML file."""
    def to_dict(self) -> dict[str, Any]:
        """The four tables with every default filled in: `s.to_dict()["model"]["ials"]` is what `half_step` takes."""
    @property
    def ials(self) -> dict[str, Any]:
        """`[model.ials]`: dim, iterations, regularisation, frequency_exponent, unobserved_weight, initial_deviation, seed."""

# -------------------------------------------------------------------------------------------------- object store, registry

class Lake:
    """A folder or `s3://bucket/prefix`, with the promises of the command's own object store: a write is whole or not
    at all, and durable when the call returns. Picklable.

    S3 is reached by the environment's AWS_ENDPOINT_URL(_S3), AWS_REGION, AWS_ACCESS_KEY_ID, … as AWS's tools do; the arguments go
    before it. On Glue, give the session's credentials (`boto3.Session().get_credentials().get_frozen_credentials()`) or none for
    the instance's role. Paths are relative, with `/`.
    """

    def __init__(
        self,
        url: Path,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
    ) -> None: ...
    @property
    def url(self) -> str: ...
    def get(self, path: str) -> bytes: ...
    def put(self, path: str, data: bytes) -> None:
        """Writes or replaces."""
    def put_new(self, path: str, data: bytes) -> bool:
        """Creates; False if something is there already, which is left as it is."""
    def upload(self, path: str, file: Path) -> int:
        """Writes or replaces from a local file, which is never in memory whole. Returns its bytes."""
    def download(self, path: str, file: Path) -> int:
        """Writes the object to a local file, whole or not at all. Returns its bytes."""
    def list(self, folder: str = "") -> list[tuple[str, int, int]]:
        """(path, bytes, modified_ms) of every object below a folder, sorted by path."""
    def exists(self, path: str) -> bool: ...
    def delete(self, path: str) -> None:
        """Deleting what is not there succeeds."""

class Registry:
    """The published models of a lake. Its records are those of `anabranch models`. Picklable."""

    lake: Lake

    def __init__(self, lake: Lake | Path) -> None: ...
    def publish(self, snapshot: Path | bytes, metrics: Any = None) -> dict[str, Any]:
        """Publishes a snapshot's file or bytes with its metrics (anything that is JSON); it is not current before it is promoted.
        Publishing the same bytes again changes nothing. Returns {version, sha256, size, published_at_ms}."""
    def promote(self, version: str, reason: str = "trained") -> dict[str, Any]:
        """Makes a version current. Returns {number, version, sha256, size, promoted_at_ms, reason, previous}."""
    def rollback(self, reason: str) -> dict[str, Any]:
        """Makes the version before the current one current again. Returns as `promote`."""
    def current(self) -> dict[str, Any] | None:
        """The current pointer as `promote` returns it, or None."""
    def list(self) -> list[dict[str, Any]]:
        """Every published model, oldest first: {version, sha256, size, published_at_ms, metrics, promotions, is_current}."""
    def fetch(self, folder: Path, version: str | None = None) -> str:
        """Brings a snapshot (the current one by default) into a local folder, checked by digest; returns the file's path."""
    def open(self, folder: Path, version: str | None = None) -> Model:
        """`Model.open(self.fetch(folder, version))` under its version."""

# -------------------------------------------------------------------------------------------------------- vector database

class VectorDatabase:
    """The vector database of `[vectors]`: embedded in a folder, PostgreSQL with pgvector, or Amazon S3 Vectors. Picklable; who unpickles it
    opens it anew (an embedded one has one writer at a time).

    Vectors lie in collections (`items`, `users`, or names of yours) under the version of the model that they come from: 1 to 64 letters,
    digits, `-`, `_` or `.` each. The first upsert makes a collection and fixes its dimension.
    """

    def __init__(self, settings: str | Mapping[str, Any] | None = None, *, folder: Path | None = None, read_only: bool = False) -> None:
        """`settings`: whole settings as TOML or a dict, of which the table `[vectors]` is read. `folder`: of an embedded one. Regions,
        keys and endpoints come from the environment, as AWS's own tools read them."""
    @property
    def users(self) -> bool:
        """`[vectors] users`: whether training writes users' embeddings, too."""
    def upsert(
        self, name: str, version: str, ids: Sequence[str], vectors: npt.ArrayLike, metadata: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Adds or replaces records: `vectors` is float32 [n, dim], finite, no row zero. Bad records are an InputError and nothing is
        written. Many in one call cost less than many calls: PostgreSQL builds the index of a new collection once, after its first."""
    def delete(self, name: str, version: str, ids: Sequence[str]) -> int:
        """Removes records; returns how many were there."""
    def get(self, name: str, version: str, id: str) -> tuple[F32, dict[str, Any]] | None:
        """(vector, metadata), the vector with the bits that it was put with."""
    def search(
        self, name: str, version: str, query: npt.ArrayLike, k: int = 10, *, metric: Literal["cosine", "dot"] = "cosine",
        filter: Mapping[str, Any] | None = None,
    ) -> tuple[list[str], F32]:
        """(ids, scores) of the k nearest (at most 10,000), best first, equal scores by id. Scores are exact; which records are found is
        exact or approximate as the database searches. A filter is one of `{"eq": {"field": f, "value": v}}`,
        `{"in": {"field": f, "values": [v, …]}}`, `{"range": {"field": f, "min": a, "max": b}}`, `{"and": […]}`, `{"or": […]}`,
        `{"not": …}`; a field that is a list satisfies a condition if one of its elements does."""
    def scan(self, name: str, version: str) -> list[tuple[str, F32, dict[str, Any]]]:
        """Every record in ascending order of ids, in memory."""
    def count(self, name: str, version: str) -> int: ...
    def versions(self, name: str) -> list[str]:
        """The versions that there are of a collection, ascending."""
    def drop_version(self, name: str, version: str) -> bool:
        """Removes a whole collection; says whether it was there."""

# ------------------------------------------------------------------------------------------------------- snapshots, models

class Model:
    """A snapshot ready to answer: what the stream serves with. Memory-mapped; not picklable, open it where it is used.

    A list is a pure function of (history or row, snapshot). A *row* is what a user did: item indices with weights; a *history*
    is the encoded bytes that ETL and stream keep.
    """

    @staticmethod
    def open(path: Path, version: str | None = None) -> Model: ...
    @staticmethod
    def from_bytes(data: bytes, version: str | None = None) -> Model: ...
    @property
    def version(self) -> str: ...
    @property
    def meta(self) -> dict[str, Any]:
        """Settings, counts, times, event settings and evaluation figures of the snapshot."""
    @property
    def dim(self) -> int: ...
    def __len__(self) -> int:
        """The number of items."""
    @property
    def item_ids(self) -> list[str]:
        """Ids in order of their index."""
    @property
    def item_factors(self) -> F32:
        """[items, dim], a copy."""
    @property
    def item_gramian(self) -> F64: ...
    @property
    def popularity(self) -> F32: ...
    @property
    def trend(self) -> F32: ...
    def item_index(self, item_id: str) -> int | None: ...
    def neighbours(self, item: int) -> tuple[I32, F32]:
        """Item neighbours, best first: (indices, similarities)."""
    def rows(self, histories: Sequence[bytes]) -> tuple[I64, I32, F32]:
        """The rows of histories as (indptr, indices, data); items that the snapshot does not know are left out."""
    def fold_in(self, rows: Csr) -> F32:
        """[rows, dim]: the factors that training gives to these rows, bit for bit."""
    def recommend(
        self, rows: Csr, N: int = 10, *, filter_already_liked_items: bool = True, filter_items: Sequence[int] | None = None
    ) -> tuple[I32, F32]:
        """The blended lists of rows: (indices [rows, N], scores [rows, N]), best first; where a list is shorter, -1 and NaN."""
    def recommend_histories(
        self, histories: Sequence[bytes], N: int = 10, *, hide: Hide = "seen"
    ) -> tuple[I32, F32]:
        """The lists that the stream would send for these histories; shape as `recommend`."""
    def similar_items(self, item: int | Sequence[int], N: int = 10) -> tuple[I32, F32]:
        """Items by the cosine of their factors, the item itself first, as implicit has it; shape as `recommend` ([N] for one item)."""
    def bulk_lists(self, histories: Arrow, N: int = 20, *, hide: Hide = "seen") -> pa.RecordBatch:
        """Lists of users: takes HISTORIES_SCHEMA (effective histories), gives BULK_SCHEMA. Keys of sessions are left out."""
    def evaluate(
        self,
        rows: Csr,
        test_items: Csr,
        cutoff: int = 20,
        *,
        seen: Csr | None = None,
        hide_seen: bool = False,
        unknown: npt.NDArray[Any] | None = None,
    ) -> dict[str, Any]:
        """How good the lists of `rows` are against what came after: {cutoff, hide_seen, users, users_without_test_items, recall, ndcg, mrr,
        coverage}, by the formulas of docs/explanation.md. `test_items` has a row for each user (its data do not matter); `seen` the
        items that are hidden if `hide_seen` (the rows' own by default); `unknown` counts each user's test items that the model does not know."""

def write_snapshot(
    index: ItemIndex,
    *,
    settings: Settings | None,
    item_factors: F32,
    item_gramian: F64,
    neighbours: tuple[I64, I32, F32],
    popularity: F32,
    trend: F32,
    user_count: int,
    interaction_count: int,
    as_of_ms: int,
    titles: Sequence[tuple[str, str]] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> bytes:
    """A snapshot's bytes from its parts, equal to the local trainer's if the parts are. `titles` has (title, category) for each item, ""
    where unknown; `metrics` are those of `backtest_metrics`."""

# ------------------------------------------------------------------------------------------------ implicit's names and shapes

class AlternatingLeastSquares:
    """iALS behind the names of `implicit.als.AlternatingLeastSquares`.

    The objective is `Σ_observed c (1 − ŷ)² + unobserved_weight Σ_all ŷ² + regularization Σ (n + unobserved_weight N)^ν ‖·‖²` with
    `c = alpha × data`, `n` a row's entries, `N` the other side's entities and ν the `frequency_exponent`. implicit minimises
    `Σ_observed c (1 − ŷ)² + Σ_unobserved ŷ² + regularization Σ ‖·‖²`: with the defaults here the two differ by the one unit that an observed
    pair's ŷ² weighs more, little where alpha is large. Users end with one exact half-step, so `user_factors[u]` equals the fold-in of row u.
    Without `random_state` the seed is 1: a fit can always be repeated, bit for bit.
    """

    user_factors: F32
    item_factors: F32

    def __init__(
        self,
        factors: int = 100,
        regularization: float = 0.01,
        alpha: float = 1.0,
        iterations: int = 15,
        random_state: int | None = None,
        *,
        unobserved_weight: float = 1.0,
        frequency_exponent: float = 0.0,
        initial_deviation: float = 0.1,
        num_threads: int = 0,
    ) -> None: ...
    def fit(
        self,
        user_items: Csr,
        show_progress: bool = False,
        callback: Callable[[int, float], None] | None = None,
        *,
        item_ids: Sequence[str] | None = None,
    ) -> AlternatingLeastSquares:
        """Trains on [users, items]. `callback(iteration, seconds)` follows each iteration. `item_ids` decide the starting factors; without
        them the decimal numbers of the columns do."""
    def recommend(
        self,
        userid: int | Sequence[int] | npt.NDArray[Any],
        user_items: Csr,
        N: int = 10,
        filter_already_liked_items: bool = True,
        filter_items: Sequence[int] | None = None,
        recalculate_user: bool = False,
        items: Sequence[int] | None = None,
    ) -> tuple[I32, F32]:
        """(ids, scores): [N] for one user, [users, N] for several, where `user_items` has one row for each of them. `items` ranks only
        those. Lists that are shorter end with -1 and NaN in a batch, and are cut for one user."""
    def similar_items(
        self, itemid: int | Sequence[int] | npt.NDArray[Any], N: int = 10, filter_items: Sequence[int] | None = None
    ) -> tuple[I32, F32]:
        """By cosine, the item itself first."""
    def similar_users(
        self, userid: int | Sequence[int] | npt.NDArray[Any], N: int = 10, filter_users: Sequence[int] | None = None
    ) -> tuple[I32, F32]: ...
    def recalculate_user(self, userid: int | Sequence[int] | npt.NDArray[Any], user_items: Csr) -> F32:
        """The fold-in of the given rows: [users, factors], or [factors] for one."""
    def partial_fit_users(self, userids: Sequence[int], user_items: Csr) -> None:
        """Folds the rows in and keeps their factors; rows past the last user are appended."""
    def save(self, file: Path) -> None:
        """numpy's .npz."""
    @staticmethod
    def load(file: Path) -> AlternatingLeastSquares: ...

class CosineRecommender:
    """Item neighbours by cosine behind the names of `implicit.nearest_neighbours.CosineRecommender`. `√data` is what is compared, `K` the
    neighbours kept."""

    def __init__(
        self,
        K: int = 20,
        num_threads: int = 0,
        *,
        shrinkage: float = 0.0,
        popularity_exponent: float = 0.5,
        user_exponent: float = 0.0,
        row_cap: int = 1_000_000,
    ) -> None: ...
    def fit(self, user_items: Csr, show_progress: bool = False) -> CosineRecommender: ...
    def recommend(
        self,
        userid: int | Sequence[int] | npt.NDArray[Any],
        user_items: Csr,
        N: int = 10,
        filter_already_liked_items: bool = True,
        filter_items: Sequence[int] | None = None,
        recalculate_user: bool = False,
        items: Sequence[int] | None = None,
    ) -> tuple[I32, F32]:
        """Scores are `Σ data × similarity`; shapes as AlternatingLeastSquares'."""
    def similar_items(
        self, itemid: int | Sequence[int] | npt.NDArray[Any], N: int = 10, filter_items: Sequence[int] | None = None
    ) -> tuple[I32, F32]: ...

# ---------------------------------------------------------------------------------------------- the pieces of distributed iALS
#
# The local trainer is:   item factors = initial_factors(ids)
#   repeat `iterations`:  user factors = half_step(user rows, item factors, gramian(item factors))
#                         item factors = half_step(item rows, user factors, gramian(user factors))
#   at the end:           user factors = half_step(user rows, item factors, gramian(item factors))
# A row's factors depend on nothing but its entries *in ascending order of index*, the factors that they name, the Gramian, the settings and
# `count`, so rows may be solved anywhere, in any batches, and the bits are the trainer's. Users are numbered by the rank of their keys'
# bytes (sessions before users), items by the rank of their ids' bytes.

GRAMIAN_BLOCK_ROWS: int  # 1024
GRAMIAN_GROUP_BLOCKS: int  # 64: a group is 65,536 rows

def initial_factors(item_ids: Sequence[str], ials: Ials) -> F32:
    """[ids, dim]: the starting factors, a function of (seed, id) alone."""

def gramian(factors: F32) -> F64:
    """`Σ f fᵀ` over all rows, [dim, dim]: a sum over groups of sums over blocks, each in order."""

def gramian_blocks(factors: F32) -> F64:
    """[ceil(rows / 1024), dim, dim]: the sum of each block of 1,024 rows. The first row given must begin a block of the whole, and
    only the whole's last block may be shorter."""

def gramian_groups(blocks: F64) -> F64:
    """[ceil(blocks / 64), dim, dim]: the sum of each group of 64 blocks. The first block given must begin a group of the whole."""

def gramian_sum(groups: F64, init: F64 | None = None) -> F64:
    """[dim, dim]: the sum of all groups in order, `init` (the sum of earlier ones) before them. `gramian_sum(gramian_groups(gramian_blocks(f)))` equals `gramian(f)` bit for bit."""

def half_step(
    indptr: npt.NDArray[Any],
    indices: npt.NDArray[Any],
    data: npt.NDArray[Any],
    factors: F32,
    gramian: F64,
    ials: Ials,
    *,
    count: int | None = None,
    out: F32 | None = None,
) -> F32:
    """The factors of rows, [rows, dim], against the other side's `factors` [m, dim].

    `indptr` (int32 or int64, [rows + 1]) need not begin at 0, so a slice of a larger one will do. `indices` name rows of `factors`; these
    may be all of the other side (an np.memmap too) or only those that the rows need, gathered in ascending order. `count` is the number of *all*
    entities of the other side; it must be given when `factors` are gathered. `gramian` is over all of them. An empty row
    has zeros. `out` takes the result where it is given.
    """

class HalfStep:
    """A half-step over blocks of the other side, for rows too long to hold or factors too large to hold: give the blocks in ascending order.
    Holds `rows × (dim + 1) × dim × 4` bytes (dim rounded up to 16 in the last factor).

    `entry_counts` [rows] is each row's number of entries over all blocks; `count` the entities of the other side.
    """

    def __init__(self, entry_counts: npt.NDArray[Any], gramian: F64, ials: Ials, *, count: int) -> None: ...
    def add(self, indptr: npt.NDArray[Any], indices: npt.NDArray[Any], data: npt.NDArray[Any], factors: F32) -> None:
        """The entries of every row (indptr [rows + 1]) that lie in this block; `indices` are relative to `factors`."""
    def finish(self) -> F32:
        """[rows, dim]. InputError if a row was given another number of entries than announced."""

def popularity(indptr: npt.NDArray[Any], data: npt.NDArray[Any]) -> F32:
    """Summed weight of each item, [rows], from *item rows* (users ascending)."""

def neighbours(user_items: Csr, item_count: int, settings: Ials = None) -> tuple[I64, I32, F32]:
    """The item neighbours of `[model.neighbours]` as (offsets [items + 1], indices, similarities), best first. A dict is that table
    alone. Holds the matrix three times."""

# Neighbours in parts: cap the rows of all users (neighbour_rows), make the norm of every item (neighbour_squares), then any items' lists
# (neighbours_of). The lists have the bits of `neighbours`.

def neighbour_rows(
    indptr: npt.NDArray[Any], indices: npt.NDArray[Any], data: npt.NDArray[Any], item_count: int, settings: Ials = None
) -> tuple[I64, I32, F32, F32]:
    """User rows without what `row_cap` leaves out: (indptr, indices, data, scales [rows])."""

def neighbour_squares(indptr: npt.NDArray[Any], users: npt.NDArray[Any], data: npt.NDArray[Any], scales: F32) -> F64:
    """[items]: the norms of item rows (users ascending, capped), with the scales of all users."""

def neighbours_of(
    first: int, indptr: npt.NDArray[Any], users: npt.NDArray[Any], data: npt.NDArray[Any], *, rows: Csr, scales: F32, squares: F64,
    settings: Ials = None,
) -> tuple[I64, I32, F32]:
    """(offsets [items + 1], indices, similarities) of the items from `first` on, whose rows (users ascending, capped) these are. `rows` are the
    capped rows of all users and may be memory maps: only the rows of the items' users are touched."""

def train_ials(user_items: Csr, item_ids: Sequence[str], ials: Ials) -> tuple[F32, F32, F64]:
    """The local trainer: (user_factors, item_factors, item_gramian)."""

def evaluate_lists(
    lists: npt.NDArray[Any], test_items: Csr, cutoff: int = 20, *, item_count: int, unknown: npt.NDArray[Any] | None = None
) -> dict[str, Any]:
    """Metrics of given lists ([users, n], negative where shorter) against test items, as `Model.evaluate`. Users without test items are not
    counted."""

# ------------------------------------------------------------------------------------------------------------------- ETL

class Record(IntEnum):
    """What a row of RECORD_SCHEMA is."""

    ROW = 1  # to fold: key = history key, row = the shuffle's row
    ITEM = 2  # of the catalogue: key = item id, row = the shuffle's row
    QUARANTINE = 3  # key orders them, row = lines of JSON
    ACCOUNT = 4  # what became of a file's rows: JSON
    CLEAN = 5  # a clean interaction: part = day since 1970, key = owner
    FILE = 6  # a data file that lies in the lake: JSON
    COUNTS = 7  # what a fold or a write counted: JSON

RECORD_SCHEMA: pa.Schema  # kind int8, part int64, key binary, row binary; no nulls
RECORD_DDL: str  # the same for Spark: "kind tinyint, part bigint, key binary, row binary"
EVENTS_SCHEMA: pa.Schema  # user_id, session_id, item_id, event_type string; event_value float; time_ms timestamp[ms, UTC]; event_id string
QUARANTINE_SCHEMA: pa.Schema  # table, file string; offset, row int64; code, detail, raw, raw_base64 string
HISTORIES_SCHEMA: pa.Schema  # key binary ("u" or "s" and the id), history binary
BULK_SCHEMA: pa.Schema  # user_id string, rank int64, item_id string, score double

class EtlPlan:
    """One run of the ETL, for an engine that brings its own shuffle. Picklable: made on the driver, used on executors.

    The run, with `map`, `shuffle` and `sort` being the engine's:

        plan = plan_etl(data, lake, mapping=…, settings=…)
        mapped = map(plan.map_file, plan.files)                                    # RECORD_SCHEMA; keep it, it is read several times
        rows, items, refused, accounts = mapped by kind ROW, ITEM, QUARANTINE, ACCOUNT
        folded = shuffle(rows by key, sort by key) → plan.fold(partition, batches) # CLEAN, FILE, COUNTS
        written = shuffle(folded CLEAN by part, sort by part, key) → plan.write_days(batches)  # FILE, COUNTS
        items = shuffle(items by key, sort by key) → plan.write_items(batches)     # FILE, COUNTS
        refused = sort(refused by key), in few partitions → plan.write_quarantine(partition, batches)  # FILE
        report = plan.publish(all ACCOUNT, FILE and COUNTS rows)

    Binary keys sort by unsigned bytes, as Spark does. Data files are named by their content and created once: a task that runs twice
    leaves the same file. Nothing is visible before `publish`.

    An incremental plan adds to the dataset that is current: fold `rows_of_interactions` and `histories_to_join` of all files of `base` with the
    new rows, and `carried_quarantine` of its quarantine joins the records that were mapped. Items and users are read whole each time. A file
    that the base has read may be read again (it grew, was mended, or had rows left out for their time): its line in the books is replaced.
    """

    files: list[PlannedFile]
    as_of_ms: int
    lake: Lake
    @property
    def input_bytes(self) -> int:
        """Stored bytes of the raw files whose rows the dataset will hold: the plan's, and those that its base has read."""
    @property
    def base(self) -> Dataset | None:
        """The dataset that an incremental plan adds to. RetryError if another one is current by now: plan again. None also if `until_ms`
        goes back behind rows that it holds: those cannot be taken out again, so the plan reads everything."""

    def map_file(self, file: PlannedFile | int) -> Iterator[pa.RecordBatch]:
        """Reads one file (by itself or by its place in `files`): ROW or ITEM, QUARANTINE and one ACCOUNT. A file that cannot be read is a line of the
        quarantine and a word in its account, not an error."""
    def fold(self, partition: int, batches: Iterable[Arrow]) -> Iterator[pa.RecordBatch]:
        """Folds owners whose rows stand together, keys ascending; rows of one owner may come in any order. Writes histories and users
        to the lake; gives CLEAN, FILE, and COUNTS at the end. `partition` is the number of the engine's partition. Holds the histories and
        users of the partition and the rows of one owner."""
    def write_days(self, batches: Iterable[Arrow]) -> Iterator[pa.RecordBatch]:
        """Writes clean interactions, a day after the other, as Parquet files of at most about 64 MB of rows."""
    def write_items(self, batches: Iterable[Arrow]) -> Iterator[pa.RecordBatch]: ...
    def write_quarantine(self, partition: int, batches: Iterable[Arrow]) -> Iterator[pa.RecordBatch]:
        """`partition` is below 100: five digits of a file's name give the order."""
    def publish(self, records: Iterable[Arrow]) -> dict[str, Any]:
        """Checks the books, writes the manifest (create-only, as one step) and removes what no longer belongs. Returns
        {"report": …, "published": "new" | "unchanged" | None, "number": int | None}; None if whole files failed and the settings do
        not say keep_going, then nothing is published. Raises InternalError if the books do not balance."""
    def rows_of_interactions(self, file: str) -> Iterator[pa.RecordBatch]:
        """The rows of a published file of interactions (`base.files("interactions")`) as ROW records, as the map once gave them."""
    def histories_to_join(self, file: str) -> Iterator[pa.RecordBatch]:
        """The histories of a published file (`base.files("histories")`) as ROW records, which the fold joins: they hold what rows did that lost
        against a duplicate."""
    def carried_quarantine(self, file: str) -> Iterator[pa.RecordBatch]:
        """The refused interactions in one of `base.files("quarantine")` as QUARANTINE records, before those of new files, and their number by
        reason as COUNTS. Those of files that the plan reads again are left out."""

class PlannedFile:
    """A file of the input. Picklable."""

    table: Literal["interactions", "items", "users"]
    index: int  # within its table
    name: str  # as reports say it
    place: str  # where it lies: a path or an s3:// URL
    size: int
    modified_ms: int

def plan_etl(
    data: str,
    lake: Lake | Path,
    *,
    mapping: str | None = None,
    settings: Settings | None = None,
    as_of_ms: int | None = None,
    until_ms: int | None = None,
    erasure_key: bytes | None = None,
    keep: Callable[[PlannedFile], bool] | None = None,
    incremental: bool = False,
    data_store: Lake | None = None,
    scratch: Path | None = None,
) -> EtlPlan:
    """Finds the files. `data` is a folder, a file or `s3://bucket/prefix`; `mapping` is TOML text (Amazon Personalize's names without one); `as_of_ms`
    judges "more than a day ahead" (the newest file's time by default); events after `until_ms` are left to the stream; `keep` chooses files
    (a bookmark; a file of which the report has `after_cut_over` or `too_new` rows must be read again once the time has moved on); `erasure_key` (32 bytes) is needed if the lake has an erasure table; `data_store` is a Lake whose way to S3 is taken for
    `data` too (its url does not matter); `scratch` takes remote Parquet files while they are read. NotFoundError if `incremental` and there is no dataset."""

def run_etl(
    data: str,
    lake: Lake | Path,
    *,
    mapping: str | None = None,
    settings: Settings | None = None,
    as_of_ms: int | None = None,
    until_ms: int | None = None,
    erasure_key: bytes | None = None,
    scratch: Path | None = None,
    memory_bytes: int = 1 << 30,
) -> dict[str, Any]:
    """The local ETL on all threads, as `anabranch etl`. Returns as `EtlPlan.publish`."""

def read_events(
    data: str,
    *,
    mapping: str | None = None,
    settings: Settings | None = None,
    as_of_ms: int | None = None,
    data_store: Lake | None = None,
    scratch: Path | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Reads and validates files without folding: (EVENTS_SCHEMA, QUARANTINE_SCHEMA), in file order. For notebooks: all is held in memory."""

class Dataset:
    """The newest published dataset of a lake. Picklable; a later run may remove its files."""

    lake: Lake
    number: int

    def __init__(self, lake: Lake | Path) -> None:
        """NotFoundError if there is none."""
    @property
    def report(self) -> dict[str, Any]:
        """What became of every row, as `report.json`."""
    def files(self, kind: Literal["interactions", "catalog", "users", "histories", "quarantine"]) -> list[str]: ...
    @property
    def days(self) -> list[str]: ...
    def interactions(self, file: str | None = None) -> Iterator[pa.RecordBatch]:
        """EVENTS_SCHEMA, of one file or all."""
    def histories(self, file: str | None = None) -> Iterator[pa.RecordBatch]:
        """HISTORIES_SCHEMA, of one file or all."""
    def quarantine(self) -> pa.Table: ...
    def item_ids(self, file: str | None = None) -> pa.Array:
        """Distinct ids in the clean interactions of one file or all, ascending."""
    def bots(self) -> list[str]: ...
    def titles(self, index: ItemIndex) -> list[tuple[str, str]]: ...
    @property
    def end_ms(self) -> int:
        """The end of the last day that has interactions: what demand is aged from."""

# -------------------------------------------------------------------------------------------------------------- training

class ItemIndex:
    """The items of a model: ids in order of their bytes. Picklable."""

    def __init__(self, ids: Iterable[str] | Arrow) -> None:
        """In any order, with repeats. InputError if two ids share a hash."""
    def __len__(self) -> int: ...
    @property
    def ids(self) -> list[str]: ...
    def digest(self) -> bytes:
        """32 bytes that name the items."""
    def retain(self, is_used: npt.NDArray[np.bool_]) -> ItemIndex:
        """Only the marked items."""

def route_histories(histories: Arrow, settings: Settings | None = None) -> pa.RecordBatch:
    """First step of training rows: under whose key a history counts. Takes HISTORIES_SCHEMA, gives ROUTED_SCHEMA: a session that is known to be a
    user's goes to that user's key. Then shuffle by key, sort by (key, source)."""

ROUTED_SCHEMA: pa.Schema  # key binary, source binary (the history's own key), history binary

def join_histories(batches: Iterable[Arrow], settings: Settings | None = None) -> Iterator[pa.RecordBatch]:
    """Effective histories: takes ROUTED_SCHEMA, histories of one key together and keys ascending, gives HISTORIES_SCHEMA, one for each key that has
    a history of its own. For `Model.bulk_lists`."""

class RowMaker:
    """Second step: routed histories to training rows, as `anabranch train` makes them."""

    def __init__(self, index: ItemIndex, settings: Settings | None, *, as_of_ms: int, bots: Iterable[str] = ()) -> None:
        """`as_of_ms` is `Dataset.end_ms`."""
    def rows(self, batches: Iterable[Arrow]) -> Iterator[pa.RecordBatch]:
        """ROWS_SCHEMA, one row for each key with a weighted item; histories of one key stand together, keys ascend. Bots are left out.
        Users are numbered by the rank of their keys' bytes over all partitions. The k-core is not applied."""
    @property
    def demand(self) -> npt.NDArray[np.uint64]:
        """[items, 2]: demand of late and for longer in steps of 2**-32; add up those of all partitions."""
    @property
    def digest(self) -> bytes:
        """16 bytes that name the rows so far, in whatever order they came: a little-endian number; add up those of all partitions modulo 2**128."""
    @property
    def newest_ms(self) -> int | None:
        """Newest entry seen: the greatest of all partitions is the snapshot's `as_of_ms`."""

ROWS_SCHEMA: pa.Schema  # key binary, items list<int32>, weights list<float32>

def trend(demand: npt.NDArray[np.uint64], settings: Ials) -> F32:
    """[items], from the summed demand of the items that are used, by `[model.trend]`."""

def training_rows(lake: Lake | Path, settings: Settings | None = None) -> TrainingRows:
    """The same for a dataset that fits into memory, k-core applied."""

class TrainingRows:
    keys: list[bytes]
    index: ItemIndex
    indptr: I64
    indices: I32
    data: F32
    trend: F32
    newest_ms: int

def train(
    lake: Lake | Path,
    settings: Settings | None = None,
    *,
    evaluate: bool = True,
    promote: bool = True,
    vectors: VectorDatabase | None = None,
    scratch: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """`anabranch train`: reads the lake's dataset, evaluates, trains on all threads, publishes, writes embeddings into `vectors`, promotes.
    Returns what the command prints with --json: {version, isPromoted, users, items, entries, snapshotBytes, backtest, timings, …}."""

def backtest(lake: Lake | Path, settings: Settings | None = None) -> list[dict[str, Any]]:
    """`anabranch evaluate`: the global time split. Holds `evaluation_interactions_max` interactions in memory, beyond it users are sampled."""

def backtest_metrics(table: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of `backtest` by name, as a snapshot keeps them: `model/seen-hidden/recall@20`, …"""

"""Anabranch's core for Python. What everything takes and gives is described in `__init__.pyi`, beside this file."""

from ._arrow import RECORD_DDL
from ._core import (
    GRAMIAN_BLOCK_ROWS,
    GRAMIAN_GROUP_BLOCKS,
    CorruptError,
    FullError,
    InputError,
    InternalError,
    Lake,
    NotFoundError,
    RetryError,
    __version__,
    num_threads,
    set_num_threads,
)
from ._factors import (
    HalfStep,
    gramian,
    gramian_blocks,
    gramian_groups,
    gramian_sum,
    half_step,
    initial_factors,
    neighbour_rows,
    neighbour_squares,
    neighbours,
    neighbours_of,
    popularity,
    train_ials,
    trend,
)
from ._model import Model, Registry, evaluate_lists
from ._settings import Settings
from .als import AlternatingLeastSquares
from .etl import Dataset, EtlPlan, PlannedFile, Record, plan_etl, read_events, run_etl
from .nearest_neighbours import CosineRecommender
from .training import (
    ItemIndex,
    RowMaker,
    TrainingRows,
    backtest,
    backtest_metrics,
    join_histories,
    route_histories,
    train,
    training_rows,
    write_snapshot,
)
from .vectors import VectorDatabase

_SCHEMAS = (
    "BULK_SCHEMA",
    "EVENTS_SCHEMA",
    "HISTORIES_SCHEMA",
    "QUARANTINE_SCHEMA",
    "RECORD_SCHEMA",
    "ROUTED_SCHEMA",
    "ROWS_SCHEMA",
)


def __getattr__(name: str) -> object:
    # Schemas import pyarrow, which `implicit`'s classes do without.
    if name in _SCHEMAS:
        from ._arrow import schema

        return schema(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [name for name in dir() if name[0] != "_" and name not in ("als", "etl", "training", "nearest_neighbours", "vectors")]
__all__ += ["__version__", *_SCHEMAS]

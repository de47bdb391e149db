"""Item neighbours behind the names of `implicit.nearest_neighbours`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _core
from ._arrays import csr, indices, offsets
from ._core import InputError, set_num_threads
from ._factors import neighbours
from ._model import one_or_many


class CosineRecommender:
    def __init__(
        self,
        K: int = 20,
        num_threads: int = 0,
        *,
        shrinkage: float = 0.0,
        popularity_exponent: float = 0.5,
        user_exponent: float = 0.0,
        row_cap: int = 1_000_000,
    ) -> None:
        self.K = K
        self.num_threads = num_threads
        self.shrinkage = shrinkage
        self.popularity_exponent = popularity_exponent
        self.user_exponent = user_exponent
        self.row_cap = row_cap
        self.similarity: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._ranker: Any = None

    def fit(self, user_items: Any, show_progress: bool = False) -> CosineRecommender:
        rows, (_, columns) = csr(user_items)
        if self.num_threads:
            set_num_threads(self.num_threads)
        count = int(rows[1].max(initial=0)) + 1 if columns is None else columns
        settings = {
            "count": self.K,
            "shrinkage": float(self.shrinkage),
            "popularity_exponent": float(self.popularity_exponent),
            "user_exponent": float(self.user_exponent),
            "row_cap": self.row_cap,
        }
        self.similarity = neighbours(user_items, count, settings)
        starts, items, scores = self.similarity
        self._ranker = _core.NeighbourRanker(offsets(starts), indices(items), scores)
        if show_progress:
            print(f"neighbours of {count} items")
        return self

    def recommend(
        self,
        userid: Any,
        user_items: Any,
        N: int = 10,
        filter_already_liked_items: bool = True,
        filter_items: Sequence[int] | None = None,
        recalculate_user: bool = False,
        items: Sequence[int] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._ranker is None:
            raise InputError("the model has no neighbours: call fit first")
        rows, (count, _) = csr(user_items)
        if count != np.size(userid):
            raise InputError(f"user_items has {count} rows for {np.size(userid)} users: give those users' rows, user_items[userid]")
        hidden = indices([] if filter_items is None else filter_items, "filter_items")
        allowed = None if items is None else indices(items, "items")
        ids, scores = self._ranker.rank(rows, filter_already_liked_items, hidden, allowed, N)
        return one_or_many(userid, ids, scores)

    def similar_items(self, itemid: Any, N: int = 10, filter_items: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        if self.similarity is None:
            raise InputError("the model has no neighbours: call fit first")
        starts, items, scores = self.similarity
        asked = np.atleast_1d(np.asarray(itemid))
        if asked.size and (asked.min() < 0 or asked.max() >= len(starts) - 1):
            raise InputError(f"itemid: an item is not below {len(starts) - 1}")
        ids = np.full((len(asked), N), -1, dtype=np.int32)
        found = np.full((len(asked), N), np.nan, dtype=np.float32)
        for place, item in enumerate(asked):
            listed = np.concatenate([[item], items[starts[item] : starts[item + 1]]])
            # An item is as similar to itself as can be.
            similar = np.concatenate([[np.float32(1.0)], scores[starts[item] : starts[item + 1]]])
            if filter_items is not None:
                kept = ~np.isin(listed, np.asarray(filter_items))
                listed, similar = listed[kept], similar[kept]
            length = min(N, len(listed))
            ids[place, :length], found[place, :length] = listed[:length], similar[:length]
        return one_or_many(itemid, ids, found)

"""iALS behind the names of `implicit.als`. The formula stands in the class's description in `__init__.pyi`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np

from . import _core
from ._arrays import csr, floats, indices, matrix, signed
from ._core import InputError, set_num_threads
from ._factors import gramian, half_step
from ._model import one_or_many


class AlternatingLeastSquares:
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
    ) -> None:
        self.factors = factors
        self.regularization = regularization
        self.alpha = alpha
        self.iterations = iterations
        self.random_state = random_state
        self.unobserved_weight = unobserved_weight
        self.frequency_exponent = frequency_exponent
        self.initial_deviation = initial_deviation
        self.num_threads = num_threads
        self.user_factors: np.ndarray | None = None
        self.item_factors: np.ndarray | None = None
        self._rankers: dict[str, Any] = {}
        self._gramian: np.ndarray | None = None

    @property
    def ials(self) -> dict[str, Any]:
        return {
            "dim": self.factors,
            "iterations": self.iterations,
            "regularisation": float(self.regularization),
            "frequency_exponent": float(self.frequency_exponent),
            "unobserved_weight": float(self.unobserved_weight),
            "initial_deviation": float(self.initial_deviation),
            "seed": 1 if self.random_state is None else int(self.random_state),
        }

    def fit(
        self,
        user_items: Any,
        show_progress: bool = False,
        callback: Callable[[int, float], None] | None = None,
        *,
        item_ids: Sequence[str] | None = None,
    ) -> AlternatingLeastSquares:
        (starts, items, data), (_, columns) = csr(user_items)
        if columns is None:
            columns = len(item_ids) if item_ids is not None else int(items.max(initial=0)) + 1
        if item_ids is None:
            item_ids = [str(item) for item in range(columns)]
        if self.num_threads:
            set_num_threads(self.num_threads)
        began = time.monotonic()

        def told(done: int, total: int) -> None:
            nonlocal began
            if show_progress:
                print(f"\riALS: {done} of {total} half-steps", end="\n" if done == total else "", flush=True)
            if callback is not None and done % 2 == 0:
                now = time.monotonic()
                callback(done // 2 - 1, now - began)
                began = now

        self.user_factors, self.item_factors, self._gramian = _core.train_ials(
            (starts, items, data * np.float32(self.alpha)), list(item_ids), _json(self.ials), told
        )
        self._rankers = {}
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
        user_factors, item_factors = self._trained()
        users = np.atleast_1d(np.asarray(userid))
        if recalculate_user:
            factors = self._folded(user_items)
        else:
            factors = self._rows_of(user_factors, users, "userid")
        liked = csr(user_items)[0] if filter_already_liked_items else None
        if liked is not None and len(liked[0]) - 1 != len(users):
            raise InputError(f"user_items has {len(liked[0]) - 1} rows for {len(users)} users: give those users' rows, user_items[userid]")
        ids, scores = self._ranker("items", item_factors).rank(
            matrix(factors),
            liked,
            indices([] if filter_items is None else filter_items, "filter_items"),
            None if items is None else indices(items, "items"),
            N,
        )
        return one_or_many(userid, ids, scores)

    def similar_items(self, itemid: Any, N: int = 10, filter_items: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self._similar("items", self._trained()[1], itemid, N, filter_items)

    def similar_users(self, userid: Any, N: int = 10, filter_users: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        return self._similar("users", self._trained()[0], userid, N, filter_users)

    def recalculate_user(self, userid: Any, user_items: Any) -> np.ndarray:
        factors = self._folded(user_items)
        if len(factors) != np.size(userid):
            raise InputError(f"user_items has {len(factors)} rows for {np.size(userid)} users: give those users' rows")
        return factors if np.ndim(userid) else factors[0]

    def partial_fit_users(self, userids: Sequence[int], user_items: Any) -> None:
        user_factors, _ = self._trained()
        users = np.asarray(userids)
        factors = self.recalculate_user(users, user_items)
        if users.size and users.min() < 0:
            raise InputError("userids: an index is negative")
        grown = np.zeros((max(len(user_factors), int(users.max(initial=-1)) + 1), self.factors), dtype=np.float32)
        grown[: len(user_factors)] = user_factors
        grown[users] = factors
        self.user_factors = grown
        self._rankers.pop("unit users", None)

    def save(self, file: str | PathLike[str]) -> None:
        user_factors, item_factors = self._trained()
        settings = {name: np.asarray(getattr(self, name)) for name in _PARAMETERS if getattr(self, name) is not None}
        np.savez(file, user_factors=user_factors, item_factors=item_factors, **settings)

    @staticmethod
    def load(file: str | PathLike[str]) -> AlternatingLeastSquares:
        with np.load(file, allow_pickle=False) as held:
            model = AlternatingLeastSquares(**{name: held[name].item() for name in _PARAMETERS if name in held})
            model.user_factors = floats(held["user_factors"])
            model.item_factors = floats(held["item_factors"])
        return model

    def _trained(self) -> tuple[np.ndarray, np.ndarray]:
        if self.user_factors is None or self.item_factors is None:
            raise InputError("the model has no factors: call fit first")
        return self.user_factors, self.item_factors

    def _folded(self, user_items: Any) -> np.ndarray:
        _, item_factors = self._trained()
        if self._gramian is None:
            self._gramian = gramian(item_factors)
        (starts, items, data), _ = csr(user_items)
        scaled = data * np.float32(self.alpha)
        return half_step(starts.view(np.int64), signed(items), scaled, item_factors, self._gramian, self.ials)

    def _ranker(self, name: str, factors: np.ndarray) -> Any:
        if name not in self._rankers:
            self._rankers[name] = _core.Ranker(matrix(factors))
        return self._rankers[name]

    @staticmethod
    def _rows_of(factors: np.ndarray, rows: np.ndarray, what: str) -> np.ndarray:
        found = indices(rows, what)
        if found.size and found.max() >= len(factors):
            raise InputError(f"{what} {int(found.max())} is not below {len(factors)}")
        return factors[found]

    def _similar(self, name: str, factors: np.ndarray, asked: Any, N: int, hidden: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
        wanted = self._rows_of(factors, np.atleast_1d(np.asarray(asked)), name)
        ranker = self._rankers.get(f"unit {name}")
        if ranker is None:
            ranker = self._ranker(f"unit {name}", _core.unit_rows(matrix(factors)))
        ids, scores = ranker.rank(_core.unit_rows(matrix(wanted)), None, indices([] if hidden is None else hidden, "filter"), None, N)
        return one_or_many(asked, ids, scores)


_PARAMETERS = (
    "factors",
    "regularization",
    "alpha",
    "iterations",
    "random_state",
    "unobserved_weight",
    "frequency_exponent",
    "initial_deviation",
    "num_threads",
)


def _json(settings: dict[str, Any]) -> str:
    import json

    return json.dumps(settings)

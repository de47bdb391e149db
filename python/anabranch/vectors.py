"""The vector database: embeddings of items and users, by name and model version."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from . import _core


class VectorDatabase:
    """Described in `__init__.pyi`."""

    __slots__ = ("_core", "_given")

    def __init__(
        self, settings: str | Mapping[str, Any] | None = None, *, folder: str | PathLike[str] | None = None, read_only: bool = False
    ) -> None:
        if isinstance(settings, str):
            try:
                settings = tomllib.loads(settings)
            except tomllib.TOMLDecodeError as error:
                raise _core.InputError(f"settings: {error}") from None
        table = dict((settings or {}).get("vectors", {}))
        self._given = (table, folder, read_only)
        try:
            text = json.dumps(table)
        except TypeError as error:
            raise _core.InputError(f"settings [vectors]: {error}") from None
        self._core = _core.VectorDatabase(text, folder, read_only)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_again, self._given)

    @property
    def users(self) -> bool:
        return self._core.users

    def upsert(
        self, name: str, version: str, ids: Sequence[str], vectors: Any, metadata: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        texts = None if metadata is None else [json.dumps(fields, ensure_ascii=False) for fields in metadata]
        self._core.upsert((name, version), list(ids), np.ascontiguousarray(vectors, np.float32), texts)

    def delete(self, name: str, version: str, ids: Sequence[str]) -> int:
        return self._core.delete((name, version), list(ids))

    def get(self, name: str, version: str, id: str) -> tuple[np.ndarray, dict[str, Any]] | None:
        found = self._core.get((name, version), id)
        return found and (found[0], json.loads(found[1]))

    def search(
        self, name: str, version: str, query: Any, k: int = 10, *, metric: str = "cosine", filter: Mapping[str, Any] | None = None
    ) -> tuple[list[str], np.ndarray]:
        text = None if filter is None else json.dumps(filter)
        return self._core.search((name, version), np.ascontiguousarray(query, np.float32), k, metric, text)

    def scan(self, name: str, version: str) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
        return [(id, vector, json.loads(text)) for id, vector, text in self._core.scan((name, version))]

    def count(self, name: str, version: str) -> int:
        return self._core.count((name, version))

    def versions(self, name: str) -> list[str]:
        return self._core.versions(name)

    def drop_version(self, name: str, version: str) -> bool:
        return self._core.drop_version((name, version))


def _again(table: dict[str, Any], folder: Any, read_only: bool) -> VectorDatabase:
    return VectorDatabase({"vectors": table}, folder=folder, read_only=read_only)

"""The settings: TOML or a dict, checked by the core."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from os import PathLike
from typing import Any

from . import _core

TABLES = ("events", "etl", "model", "training")


class Settings:
    """The tables `[events]`, `[etl]`, `[model]` and `[training]` of `anabranch.toml`, checked. Picklable."""

    __slots__ = ("_json",)

    def __init__(self, settings: str | Mapping[str, Any] | None = None) -> None:
        if isinstance(settings, str):
            try:
                settings = tomllib.loads(settings)
            except tomllib.TOMLDecodeError as error:
                raise _core.InputError(f"settings: {error}") from None
        tree = {name: table for name, table in (settings or {}).items() if name in TABLES}
        try:
            text = json.dumps(tree)
        except TypeError as error:
            raise _core.InputError(f"settings: {error}") from None
        self._json = _core.check_settings(text)

    @staticmethod
    def load(path: str | PathLike[str]) -> Settings:
        with open(path, encoding="utf-8") as file:
            return Settings(file.read())

    def to_dict(self) -> dict[str, Any]:
        return json.loads(self._json)

    @property
    def ials(self) -> dict[str, Any]:
        return self.to_dict()["model"]["ials"]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._json == other._json

    def __hash__(self) -> int:
        return hash(self._json)

    def __repr__(self) -> str:
        return f"Settings({self.to_dict()!r})"


def settings_json(settings: Settings | str | Mapping[str, Any] | None) -> str:
    """The JSON that the core takes."""
    return settings._json if isinstance(settings, Settings) else Settings(settings)._json


def table_json(settings: Settings | str | Mapping[str, Any] | None, name: str) -> str:
    """The JSON of `[model.<name>]`: of whole settings, or of that table alone."""
    if isinstance(settings, (Settings, str)):
        whole = settings if isinstance(settings, Settings) else Settings(settings)
        return json.dumps(whole.to_dict()["model"][name])
    return json.dumps(dict(settings or {}))

#!/usr/bin/env python3
"""Checks licences, bans and sources of every dependency against deny.toml, offline.

The same file serves cargo-deny; this script needs nothing but cargo and Python, so that `make check` can hold the rules
on any machine. Exit status 1 and one line for each breach.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REGISTRIES = ("registry+", "sparse+")


def satisfied(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be satisfied with allowed licences only. "/" is the old way to write OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek() -> str | None:
        return tokens[position] if position < len(tokens) else None

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def any_of() -> bool:
        result = all_of()
        while peek() == "OR":
            take()
            result = all_of() or result
        return result

    def all_of() -> bool:
        result = single()
        while peek() == "AND":
            take()
            result = single() and result
        return result

    def single() -> bool:
        if peek() == "(":
            take()
            result = any_of()
            take()
            return result
        name = take()
        if peek() == "WITH":
            take()
            name = f"{name} WITH {take()}"
        return name in allowed

    return bool(tokens) and any_of()


def main() -> int:
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    allowed = set(rules["licenses"]["allow"])
    clarified = {entry["crate"]: entry["expression"] for entry in rules["licenses"].get("clarify", [])}
    banned = {ban["name"] for ban in rules["bans"]["deny"]}
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", rules["graph"]["targets"][0]]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    breaches = []
    for package in sorted((p for p in metadata["packages"] if p["id"] in used), key=lambda p: p["name"]):
        name = f"{package['name']} {package['version']}"
        if not satisfied(package["license"] or clarified.get(package["name"], ""), allowed):
            breaches.append(f"{name}: licence {package['license']!r} is not allowed")
        if package["name"] in banned:
            breaches.append(f"{name}: banned")
        source = package["source"]
        if source is not None and not source.startswith(REGISTRIES):
            breaches.append(f"{name}: source {source} is no crate registry")
        for dependency in package["dependencies"]:
            if source is None and dependency["req"] == "*" and dependency.get("path") is None:
                breaches.append(f"{name}: dependency {dependency['name']} has no version")
    for breach in breaches:
        print(breach, file=sys.stderr)
    print(f"dependencies: {len(used)} packages, {len(breaches)} breaches of deny.toml")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Holds what the documents say of the code: named tests and files are there, links lead somewhere.

A document that names a test is a promise; a renamed test would break it silently. Checked:

- docs/traps.md: every trap has its row, and every test and file that a row names exists;
- docs/architecture.md, "Where does a change go?": every path in backticks exists;
- docs/operations.md: every Prometheus metric that a symptom names is in its table of metrics;
- every Markdown file: relative links, and the headings that they point to, exist.

Not checked: whether the test holds what the row says. Standard library only.
"""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAPS = ROOT / "docs" / "traps.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
OPERATIONS = ROOT / "docs" / "operations.md"
# The first cells of the rows of docs/traps.md: the checklist's numbers, then what was seen in peers.
TRAP_NAMES = [*map(str, range(1, 28)), "a", "b", "c"]
# What stands in place of a test.
WITHOUT_TEST = ("(none yet)", "comes with the infrastructure")

SKIPPED_FOLDERS = {"target", "node_modules", "anabranch-data"}
CODE = re.compile(r"`([^`]+)`")
RUST_TEST = re.compile(r"^([a-z]+)((?:::\w+)*)::(\w+)$")
PYTHON_TEST = re.compile(r"^(tests/\w+\.py)::(\w+)$")
PATH = re.compile(r"^[\w.\-]+(/[\w.\-]+)*/?$")
FILE_ENDINGS = (".rs", ".py", ".md", ".tf", ".toml")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~)")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def exists(path: str) -> bool:
    """Whether a path as the documents write it is there: from the root, or below crates/."""
    return (ROOT / path).exists() or (ROOT / "crates" / path).exists()


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, heads and rulers aside."""
    lines = [line.strip() for line in text.splitlines()]
    tables = [line for place, line in enumerate(lines) if line.startswith("|") and not is_head(lines, place)]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in tables]
    return [row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]


def is_head(lines: list[str], place: int) -> bool:
    return place + 1 < len(lines) and re.match(r"^\|[\s:|-]+\|$", lines[place + 1]) is not None


def rust_files(crate: str, modules: list[str]) -> list[Path]:
    """Where a test of this path may stand: the module's file, or that of the module around an inline `mod tests`."""
    home = ROOT / "lambda" if crate == "lambda" else ROOT / "crates" / crate
    places = [modules, modules[:-1]] if modules[-1:] == ["tests"] else [modules]
    files = [home / "src" / "lib.rs"] if [] in places else []
    for place in filter(None, places):
        inner = Path(*place)
        files += [home / "src" / inner.with_suffix(".rs"), home / "src" / inner / "mod.rs"]
        files += [home / "tests" / inner.with_suffix(".rs"), home / "tests" / inner / "main.rs"]
    return [file for file in files if file.is_file()]


def is_rust_test(crate: str, modules: list[str], name: str) -> bool:
    test = re.compile(rf"#\[(?:tokio::)?test\b[^\n]*\]\s*(?:(?:#\[|//)[^\n]*\s*)*(?:async )?fn {name}\b")
    return any(test.search(file.read_text()) for file in rust_files(crate, modules))


def missing_test(name: str) -> bool:
    if found := PYTHON_TEST.match(name):
        file = ROOT / found[1]
        return not (file.is_file() and re.search(rf"^def {found[2]}\(", file.read_text(), re.MULTILINE))
    found = RUST_TEST.match(name)
    return not (found and is_rust_test(found[1], found[2].split("::")[1:], found[3]))


def check_traps() -> tuple[list[str], int]:
    breaches, tests = [], 0
    table = [row for row in rows(TRAPS.read_text()) if row[0] in TRAP_NAMES]
    if [row[0] for row in table] != TRAP_NAMES:
        breaches.append(f"{relative(TRAPS)}: the rows are {[row[0] for row in table]}, not {TRAP_NAMES}")
    for row in table:
        number, code, held_by = row[0], row[-2], row[-1]
        named = [name for name in CODE.findall(held_by) if "::" in name]
        tests += len(named)
        breaches += [f"{relative(TRAPS)}: trap {number}: there is no test {name}" for name in named if missing_test(name)]
        if not named and not any(words in held_by for words in WITHOUT_TEST):
            breaches.append(f"{relative(TRAPS)}: trap {number} names no test and does not say so")
        breaches += [f"{relative(TRAPS)}: trap {number}: there is no {path}" for path in missing_paths(code)]
    return breaches, tests


def missing_paths(text: str) -> list[str]:
    tokens = [token for token in CODE.findall(text) if PATH.match(token)]
    return [token for token in tokens if ("/" in token or token.endswith(FILE_ENDINGS)) and not exists(token)]


def check_architecture() -> list[str]:
    section = re.search(r"^## Where does a change go\?$(.*?)^## ", ARCHITECTURE.read_text(), re.MULTILINE | re.DOTALL)
    if not section:
        return [f"{relative(ARCHITECTURE)}: the table \"Where does a change go?\" is gone"]
    return [f"{relative(ARCHITECTURE)}: there is no {path}" for row in rows(section[1]) for path in missing_paths(row[-1])]


def check_metrics() -> list[str]:
    """The table itself is held by a test of the server."""
    symptoms, _, table = OPERATIONS.read_text().partition("\n## Metrics\n")
    known = set(re.findall(r"`([a-z_]+)(?:\{[a-z]+\})?`", table))
    named = set(re.findall(r"`anabranch_([a-z_]+)", symptoms))
    return [f"{relative(OPERATIONS)}: there is no metric anabranch_{name}" for name in sorted(named - known)]


def documents() -> list[Path]:
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        found += [Path(folder) / name for name in sorted(files) if name.endswith(".md")]
    return found


def prose(text: str) -> list[str]:
    """The lines outside fenced blocks."""
    lines, is_inside = [], False
    for line in text.splitlines():
        if FENCE.match(line.lstrip()):
            is_inside = not is_inside
        elif not is_inside:
            lines.append(line)
    return lines


def anchors(file: Path) -> set[str]:
    """The names that headings get, as GitHub makes them."""
    found: set[str] = set()
    for line in prose(file.read_text()):
        if heading := re.match(r"#{1,6}\s+(.*)", line):
            slug = re.sub(r"[^\w\- ]", "", heading[1].strip().lower()).replace(" ", "-")
            name, again = slug, 0
            while name in found:
                again += 1
                name = f"{slug}-{again}"
            found.add(name)
    return found


def check_links(files: list[Path]) -> list[str]:
    breaches = []
    for file in files:
        for target in LINK.findall("\n".join(CODE.sub("", line) for line in prose(file.read_text()))):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            place = (file.parent / path).resolve() if path else file
            if not place.exists():
                breaches.append(f"{relative(file)}: the link {target} leads nowhere")
            elif anchor and place.suffix == ".md" and anchor not in anchors(place):
                breaches.append(f"{relative(file)}: the link {target} names no heading")
    return breaches


def main() -> int:
    files = documents()
    breaches, tests = check_traps()
    breaches += check_architecture() + check_metrics() + check_links(files)
    for breach in breaches:
        print(breach, file=sys.stderr)
    print(f"documents: {len(files)} files, {tests} tests named, {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())

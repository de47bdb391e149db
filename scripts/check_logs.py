#!/usr/bin/env python3
"""Holds the grammar of the log (docs/operations.md, "Logs"): a message is one constant sentence, values are fields, and
every field has a name of the documented vocabulary. No field of it names a person.

    tracing::warn!(%shard, error = %error, "a worker ended");

Without arguments it checks the repository. `--self-test` shows that each rule can fail.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "operations.md"

EVENTS = ("trace", "debug", "info", "warn", "error")
CALL = re.compile(r"\btracing::(%s)(_span)?!\s*\(" % "|".join(EVENTS))
IMPORT = re.compile(r"\buse tracing::.*\b(%s)(_span)?\b|\bextern crate tracing|#\[(tracing::)?instrument" % "|".join(EVENTS))
PRINT = re.compile(r"\b(e?print(ln)?|dbg)!\s*\(")
# Answers and progress are printed there, and metrics by the Lambda functions.
PRINTERS = {"crates/cli/src/ui.rs", "crates/cli/src/failure.rs", "lambda/src/compose.rs"}
MESSAGE = re.compile(r'^"((?:[^"\\]|\\.)*)"$', re.DOTALL)
FIELD = re.compile(r"^(?:(?P<name>[a-z][a-z0-9_.]*)\s*=(?!=)|[%?]?(?P<bare>[a-z][a-z0-9_.]*)$)")
# Never in a log, whatever the table says.
PERSONAL = {"user", "user_id", "session", "session_id", "owner", "key", "partition_key", "history"}


def vocabulary(text: str) -> set[str]:
    """The fields of the table under "Logs"."""
    section = text.split("\n## Logs\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"^\| `([a-z_0-9]+)` \|", section, re.MULTILINE))


def without_comments(text: str) -> str:
    """The same with comments blanked, so that lines keep their numbers; literals stay."""
    token = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)\'|//[^\n]*', re.DOTALL)
    return token.sub(lambda m: m[0] if m[0][0] in "\"'" else " " * len(m[0]), text)


def arguments(text: str, start: int) -> list[str]:
    """The arguments of a call whose opening parenthesis lies just before `start`."""
    found, depth, begin, at = [], 1, start, start
    while depth:
        char = text[at]
        if char == '"':
            at = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL).match(text, at).end()
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        if (char == "," and depth == 1) or depth == 0:
            found.append(text[begin:at].strip())
            begin = at + 1
        at += 1
    return [argument for argument in found if argument]


def breaches_of(place: str, text: str, fields: set[str], used: set[str]) -> list[str]:
    breaches = []
    text = without_comments(text).split("#[cfg(test)]")[0]

    def tell(position: int, what: str) -> None:
        breaches.append(f"{place}:{text.count(chr(10), 0, position) + 1}: {what}")

    for match in IMPORT.finditer(text):
        tell(match.start(), "write tracing::warn!(...) in full, so that this check sees it")
    if place not in PRINTERS:
        for match in PRINT.finditer(text):
            tell(match.start(), "prints; the log is the place for what a library tells")
    for match in CALL.finditer(text):
        *rest, message = arguments(text, match.end()) or [""]
        literal = MESSAGE.match(message)
        if match[2]:
            # A span's name comes first, its fields after it.
            first, *rest = arguments(text, match.end()) or [""]
            literal = MESSAGE.match(first)
        if not literal:
            tell(match.start(), "the message is one constant sentence, the last argument")
            continue
        sentence = literal[1]
        if "{" in sentence:
            tell(match.start(), "no values in the message: they are fields")
        if not sentence or sentence.endswith(".") or (sentence[0].isupper() and not sentence[:2].isupper()):
            tell(match.start(), "a message begins small and has no full stop at its end")
        for argument in rest:
            if argument.startswith("target:"):
                continue
            field = FIELD.match(argument)
            name = field and (field["name"] or field["bare"])
            if not name:
                tell(match.start(), f"{argument!r} is no field")
            elif name in PERSONAL or name not in fields:
                tell(match.start(), f"{name!r} is no field of docs/operations.md; a log names no person")
            else:
                used.add(name)
    return breaches


def self_test() -> int:
    fields = {"shard", "error", "version"}
    good = [
        'tracing::warn!(%shard, error = ?held.error(1, "a, b"), "a worker ended");',
        'tracing::info!(version = model.version(), "a newer model serves"); // {"no call"}',
        'tracing::info_span!("invocation", version)',
        'tracing::error!(target: "a::b", "nothing\\n is wrong")',
    ]
    bad = [
        'tracing::warn!("a worker of {shard} ended");',
        'tracing::warn!(%shard, "shard {} ended", shard);',
        'tracing::warn!(%user, "somebody came");',
        'tracing::warn!(who = 1, "somebody came");',
        'tracing::warn!(held.shard, "somebody came");',
        'tracing::warn!("Somebody came.");',
        "tracing::warn!(%error);",
        'use tracing::{info, warn};',
        'println!("a worker ended");',
    ]
    failed = [text for text in good if breaches_of("good.rs", text, fields, set())]
    failed += [text for text in bad if not breaches_of("bad.rs", text, fields, set())]
    for text in failed:
        print(f"the check errs about: {text}", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    if self_test():
        return 1
    if sys.argv[1:] == ["--self-test"]:
        print("log: every rule can fail")
        return 0
    fields, used, breaches, calls = vocabulary(DOCUMENT.read_text()), set(), [], 0
    for path in sorted([*ROOT.glob("crates/*/src/**/*.rs"), *ROOT.glob("lambda/src/**/*.rs")]):
        place = path.relative_to(ROOT).as_posix()
        if "/tests" in place or path.name in {"tests.rs", "testing.rs", "real_data.rs"}:
            continue
        text = path.read_text()
        calls += len(CALL.findall(without_comments(text)))
        breaches += breaches_of(place, text, fields, used)
    breaches += [f"docs/operations.md: no line of the log has the field {name!r}" for name in sorted(fields - used)]
    for breach in breaches:
        print(breach, file=sys.stderr)
    print(f"log: {calls} calls, {len(fields)} fields, {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())

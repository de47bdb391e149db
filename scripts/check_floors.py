#!/usr/bin/env python3
"""Holds the table of floors: imports go down only, AWS stays in its crates, `unsafe` stays in its places.

The table is docs/architecture.md's; a crate that is not in it fails the check, so that nobody adds one in passing.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# crate: what it may import
MAY_IMPORT = {
    "events": set(),
    "kernels": set(),
    "models": {"events", "kernels"},
    "evaluation": {"events", "models"},
    "stores": {"events", "models"},
    "batch": {"events", "kernels", "models", "evaluation", "stores"},
    "stream": {"events", "kernels", "models", "evaluation", "stores"},
    "aws": {"events", "kernels", "models", "evaluation", "stores", "stream"},  # of stream its ports only
    "server": {"events", "kernels", "models", "evaluation", "stores", "batch", "stream"},
    "cli": {"events", "kernels", "models", "evaluation", "stores", "batch", "stream", "aws", "server"},
    "fuzz": {"events", "models", "stores", "batch", "stream", "aws", "server", "lambda"},  # nothing imports it
    "python": {"events", "kernels", "models", "evaluation", "stores", "batch"},  # Spark runs batch's own stages
    "lambda": {"events", "models", "stores", "stream", "aws"},  # a cold start pays for every byte
}
# Files that may hold `unsafe`, besides all of kernels.
UNSAFE_FILES = {
    "crates/models/src/map.rs",
    "crates/stores/src/vectors/embedded/open.rs",
}
# Crates outside crates/: nothing imports them.
LEAVES = ("lambda", "python", "fuzz")
# Crates that may name an AWS crate.
AWS_HOMES = {"aws", "lambda"}
AWS_CRATES = re.compile(r"^(aws-(?!lc-)|aws_|lambda_)")
# Time, chance and the environment are read in these places only.
EDGE = re.compile(r"\b(SystemTime::now|Instant::now|thread::sleep|std::env::var|env::vars|rand::rng\(\)|SysRng)")
EDGE_FILES = {"crates/cli/src/compose.rs", "crates/cli/src/account.rs", "crates/cli/src/main.rs", "crates/cli/src/commands/settings.rs",
              "crates/cli/src/commands/stream.rs", "lambda/src/compose.rs", "python/src/compose.rs", "fuzz/src/bin/fuzz.rs"}


def is_test(path: Path) -> bool:
    text = path.as_posix()
    return "/tests" in text or path.name in {"tests.rs", "testing.rs", "real_data.rs"} or "/examples/" in text or "/benches/" in text


def without_tests(text: str) -> str:
    """The text up to its test module."""
    return text.split("#[cfg(test)]")[0]


def main() -> int:
    breaches = []
    for manifest in sorted([*ROOT.glob("crates/*/Cargo.toml"), *(ROOT / leaf / "Cargo.toml" for leaf in LEAVES)]):
        crate = manifest.parent.name
        if crate not in MAY_IMPORT:
            breaches.append(f"{crate} is not in the table of floors (docs/architecture.md and this script)")
            continue
        for name in tomllib.loads(manifest.read_text()).get("dependencies", {}):
            ours = name.removeprefix("anabranch-")
            if ours != name and ours not in MAY_IMPORT[crate]:
                breaches.append(f"{crate} imports {name}: imports go down the floors only")
            if AWS_CRATES.match(name) and crate not in AWS_HOMES:
                breaches.append(f"{crate} imports {name}: AWS lives in `aws` and `lambda` only")
    for path in sorted([*ROOT.glob("crates/*/src/**/*.rs"), *(path for leaf in LEAVES for path in ROOT.glob(f"{leaf}/src/**/*.rs"))]):
        place = path.relative_to(ROOT).as_posix()
        text = path.read_text()
        if re.search(r"\bunsafe\s*(\{|fn|impl)", text) and not place.startswith("crates/kernels/") and place not in UNSAFE_FILES:
            breaches.append(f"{place} holds unsafe code")
        if not is_test(path) and place not in EDGE_FILES:
            for number, line in enumerate(without_tests(text).splitlines(), 1):
                if EDGE.search(line) and not line.lstrip().startswith("//"):
                    breaches.append(f"{place}:{number} reads clock, chance or environment; take it as an argument")
    for breach in breaches:
        print(breach, file=sys.stderr)
    print(f"floors: {len(MAY_IMPORT)} crates, {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())

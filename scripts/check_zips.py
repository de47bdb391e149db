#!/usr/bin/env python3
"""Holds the zips of the Lambda functions to the folder that they lie in: the machine of each `bootstrap` is its target's.

A zip for x86 on an arm64 function uploads without complaint and fails at its first invocation. `make lambda` writes
`FOLDER/<target>/<function>/bootstrap.zip` and calls this with FOLDER. Checked of each: an executable file `bootstrap` at the
top, an ELF file of 64 bits, `e_machine` as the target's name says. Standard library only.
"""

import struct
import sys
import zipfile
from pathlib import Path

# The first part of a target's name: `e_machine` (ELF, figure 1-4), and the architecture as Lambda calls it.
MACHINES = {"x86_64": (62, "x86_64"), "aarch64": (183, "arm64")}
ELF_64_LITTLE = b"\x7fELF\x02\x01"


def breach(path: Path) -> str | None:
    """What is wrong with the zip of a function, if anything."""
    target = path.parent.parent.name
    if (expected := MACHINES.get(target.partition("-")[0])) is None:
        return f"the folder {target} is no target that Lambda runs ({', '.join(MACHINES)})"
    machine, architecture = expected
    with zipfile.ZipFile(path) as archive:
        if "bootstrap" not in archive.namelist():
            return "no file `bootstrap` at the top of the zip"
        if not archive.getinfo("bootstrap").external_attr >> 16 & 0o100:
            return "`bootstrap` may not be executed"
        with archive.open("bootstrap") as file:
            head = file.read(20)
    if len(head) < 20 or not head.startswith(ELF_64_LITTLE):
        return "`bootstrap` is no 64-bit ELF file"
    (found,) = struct.unpack_from("<H", head, 18)
    if found != machine:
        known = {number: name for number, name in MACHINES.values()}
        return f"`bootstrap` is for {known.get(found, f'machine {found}')}, the folder is for {architecture}: build it again"
    return None


def main(folder: Path) -> int:
    zips = sorted(folder.glob("*/*/bootstrap.zip"))
    if not zips:
        print(f"{folder}: no zips; make lambda writes them")
        return 1
    breaches = [(path, found) for path in zips if (found := breach(path))]
    for path, found in breaches:
        print(f"{path}: {found}")
    print(f"zips: {len(zips)} functions, {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""The check of `make lambda`: a zip for one architecture in the folder of another does not pass."""

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "check_zips.py"
X86, ARM = 62, 183


def elf(machine):
    """The first bytes of an executable for a machine."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine) + bytes(44)


def check(folder, target, content, name="bootstrap", mode=0o755):
    path = folder / target / "stream" / "bootstrap.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, content)
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_zips_of_their_own_architecture_pass(tmp_path):
    assert check(tmp_path, "x86_64-unknown-linux-gnu", elf(X86))[0] == 0
    code, said = check(tmp_path, "aarch64-unknown-linux-gnu", elf(ARM))
    assert (code, "2 functions, 0 breaches" in said) == (0, True), said


@pytest.mark.parametrize(
    ("target", "content", "more", "expected"),
    [
        ("aarch64-unknown-linux-gnu", elf(X86), {}, "is for x86_64, the folder is for arm64"),
        ("x86_64-unknown-linux-gnu", elf(ARM), {}, "is for arm64, the folder is for x86_64"),
        ("x86_64-unknown-linux-gnu", b"#!/bin/sh\necho no program here\n", {}, "no 64-bit ELF"),
        ("x86_64-unknown-linux-gnu", elf(X86)[:10], {}, "no 64-bit ELF"),
        ("x86_64-unknown-linux-gnu", elf(X86), {"name": "stream"}, "no file `bootstrap`"),
        ("x86_64-unknown-linux-gnu", elf(X86), {"mode": 0o644}, "may not be executed"),
        ("riscv64gc-unknown-linux-gnu", elf(243), {}, "no target that Lambda runs"),
    ],
)
def test_others_do_not(tmp_path, target, content, more, expected):
    code, said = check(tmp_path, target, content, **more)
    assert code == 1 and expected in said, said


def test_nothing_is_no_pass(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "no zips" in done.stdout

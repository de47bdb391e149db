"""Memory is bounded: five million generated rows (100 million in `make scale`), books that balance, a peak far below 4 GiB."""

import os
import subprocess
import sys

from conftest import BINARY, ROOT, environment


def test_five_million_rows(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "scale.py", "--rows", "5000000", "--limit-gib", "1.5", "--folder", tmp_path],
        env=environment(ANABRANCH_BIN=os.fspath(BINARY)), capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)

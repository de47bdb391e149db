"""A prepared home whose last days wait to be replayed: Complete Journey where its data is there, else the shop."""

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import BINARY, ROOT, decompress, environment

DATA = Path(os.environ.get("ANABRANCH_TEST_DATA", ROOT.parent / "shared" / "data")) / "completejourney"
JOURNEY_CUT_OVER = "2017-12-01"
SHOP_CUT_OVER = "2024-02-20"


def run(command, **env):
    """Runs a command to its end; its output is shown if it fails."""
    done = subprocess.run(
        [str(part) for part in command], env=environment(**env), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def lines_of(path):
    """The lists of a delivered object, as bytes."""
    return decompress(path.read_bytes()).splitlines()


def anabranch(home, *arguments):
    return [str(BINARY), "--home", str(home), *[str(argument) for argument in arguments]]


@dataclass
class Journey:
    """Where it lies, and the arguments that name its raw files."""

    home: Path
    data: list
    cut_over: str
    is_real: bool

    @classmethod
    def prepare(cls, home):
        """ETL up to the cut-over, training, a warm state without any event of the stream."""
        if DATA.is_dir():
            data = ["--data", DATA, "--mapping", ROOT / "examples" / "completejourney.toml"]
            journey = cls(home, data, JOURNEY_CUT_OVER, True)
        else:
            run(anabranch(home, "generate", "--out", home / "shop"))
            journey = cls(home, ["--data", home / "shop"], SHOP_CUT_OVER, False)
        run(anabranch(home, "etl", *journey.data, "--until", journey.cut_over))
        run(anabranch(home, "train", "--no-evaluate", "--no-embeddings"))
        # A window in which nothing happened creates the state and warms it, and delivers nothing.
        run(anabranch(home, "replay", *journey.data, "--from", "2100-01-01"))
        return journey

    def replay(self, home):
        """The command that replays the days after the cut-over into `home`."""
        return anabranch(home, "--json", "replay", *self.data, "--from", self.cut_over)


def history_bytes(home, backup):
    """Every history's bytes by key, from a backup of the state (docs/formats.md, "Backups")."""
    run(anabranch(home, "backup", "--out", backup))
    raw = backup.read_bytes()
    assert raw[:8] == b"ANBBACK\0"
    place, histories = 12, {}
    while raw[place] != 0xFF:
        keyspace = raw[place]
        (key_length,) = struct.unpack_from("<I", raw, place + 1)
        key = raw[place + 5 : place + 5 + key_length]
        place += 5 + key_length
        (value_length,) = struct.unpack_from("<I", raw, place)
        if keyspace == 2:
            histories[key] = raw[place + 4 : place + 4 + value_length]
        place += 4 + value_length
    return histories

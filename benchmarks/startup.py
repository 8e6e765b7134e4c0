"""How long a command takes from the first letter to the last, and the memory it takes: help, looking at a file, one
sentence.

python benchmarks/startup.py [--rounds N] [--out FILE]      leave the machine alone meanwhile
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from launch import run_measured

from sevlm.synthetic.dataset import make_mini
from sevlm.utils import write_json

REPO = Path(__file__).resolve().parent.parent
ROUNDS = 5


def commands(place: Path) -> dict[str, list[str]]:
    "name -> arguments of Python; the last is the floor under every command that computes."
    data = make_mini(place / "mini", 60, progress=False)
    sevlm = ["-m", "sevlm"]
    return {
        "sevlm --help": [*sevlm, "--help"],
        "sevlm inspect FILE.csv": [*sevlm, "inspect", str(data / "artemis_dataset_release_v0.csv")],
        "sevlm explain PICTURE": [*sevlm, "explain", str(REPO / "figures" / "example.jpg")],
        "import torch": ["-c", "import torch"],
    }


def one(arguments: list[str]) -> tuple[float, float]:
    "Wall seconds and peak megabytes of one process."
    seconds, peak = run_measured([sys.executable, *arguments], codes=(0, 1))  # 1: done in part, as with dropped rows
    return seconds, peak / 1e6


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        ways = commands(Path(place))
        for arguments in ways.values():
            one(arguments)  # what is read from disk is in memory from now on
        found = {name: [one(arguments) for _ in range(args.rounds)] for name, arguments in ways.items()}
    rows = {
        name: dict(zip(("seconds", "megabytes"), map(statistics.median, zip(*values))))
        for name, values in found.items()
    }
    for name, row in rows.items():
        print(f"{name:24} {row['seconds']:6.2f} s {row['megabytes']:7.0f} MB")
    if args.out:
        write_json(args.out, rows)


if __name__ == "__main__":
    main()

"""Measure the fast way against the published one, and both against what the machine can do.

    python benchmarks/bench.py                      all parts on the CPU: nbs/data/bench_cpu.json
    python benchmarks/bench.py --device cuda
        the same on a card, with memory, precisions and a run within 11 GB: nbs/data/bench_cuda.json
    python benchmarks/bench.py --quick --out FILE   tiny sizes, in seconds: shows that it runs; its ratios mean nothing
    python benchmarks/bench.py --parts step writing --out FILE

Everything is measured in one run, the ways in turn. Leave the machine alone meanwhile. The file is written at the end;
what was measured so far is written after each part, into build/bench_cpu.partial.json (or beside FILE).
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from card import card
from measure import machine
from parts import NEEDS, PARTS, Run, limit
from setting import REPO, TEXTS

from sevlm.errors import SevlmError
from sevlm.utils import keep_freed_memory, resolve_device, write_json


def wanted(names: list, device) -> list:
    "The parts asked for and those they need, in order."
    parts = {**PARTS, **({"card": card} if device.type == "cuda" else {})}
    names = set(names or parts)
    if unknown := names - set(parts):
        raise SystemExit(f"unknown parts {sorted(unknown)}; there are {', '.join(parts)}.")
    for name in list(names):
        names |= set(NEEDS.get(name, ()))
    return [(name, part) for name, part in parts.items() if name in names]


def measure(device, quick: bool, names: list, rounds: float, out: Path, partial: Path, say=print) -> dict:
    """Runs the parts one after the other; the result so far is written into `partial` after each, and `out` only at
    the end."""
    run = Run(device, quick, rounds)
    keep_freed_memory()
    todo = wanted(names, device)
    result = dict(
        kind="benchmark",
        quick=quick,
        sizes="tiny"
        if quick
        else "the paper's (preset corrected, and the same with the published switches); random weights",
        command="python benchmarks/bench.py " + " ".join(sys.argv[1:]),
        machine=machine(device),
        texts=TEXTS,
        complete=False,
        parts=run.done,
    )

    began = time.perf_counter()
    for name, part in todo:
        at = time.perf_counter()
        run.done[name] = part(run)
        say(f"{time.perf_counter() - began:7.0f} s  {name} ({time.perf_counter() - at:.0f} s)")
        result["seconds"] = round(time.perf_counter() - began, 1)
        write_json(partial, result)
    if "limit" in run.done:
        run.done["limit after"] = limit(run)
        for kind in ("product", "memory"):
            say(f"{kind}: before and after", *(f"{run.done[k][kind]['best']:.3g}" for k in ("limit", "limit after")))
    result["complete"] = len(todo) == len(PARTS) + (device.type == "cuda")
    write_json(out, result)
    partial.unlink(missing_ok=True)
    return result


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"parts: {', '.join(PARTS)}; on a card also: card"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART", help="only these, and what they need")
    parser.add_argument("--rounds", type=float, default=1.0, help="times as many rounds")
    parser.add_argument(
        "--out", type=Path, help="the results file; default: nbs/data/bench_cpu.json or bench_cuda.json"
    )
    args = parser.parse_args(argv)
    if args.out is None and (args.quick or args.parts):
        parser.error(
            "give --out FILE: the file of results that comes with the project holds a whole run of the real sizes."
        )
    try:
        device = resolve_device(args.device)
        name = f"bench_{device.type}.json"
        out = args.out or REPO / "nbs" / "data" / name
        partial = (args.out or REPO / "build" / name).with_suffix(".partial.json")
        measure(device, args.quick, args.parts, args.rounds, out, partial)
    except SevlmError as e:
        sys.exit(f"error: {e}")
    print(f"written to {out}")


if __name__ == "__main__":
    main()

"""Runs generated cases of each kind in a process of its own, with limits, and counts what is not as it should be.

As a program: `campaign.py [--cases N] [--kinds a,b] [--seed S] [--findings FILE]`.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))  # `fuzz` is found beside the tests

CASES = {
    "csv": 2500,
    "json": 2500,
    "jsonl": 1000,
    "lexicon": 1500,
    "image": 2000,
    "checkpoint": 1000,
    "table": 1500,
    "tower": 1000,
    "pickle": 2500,
    "command": 1500,
}
DEADLINE = 20  # seconds of the processor for one case; most take some milliseconds
PATIENCE, SECONDS = 120, 1  # of the clock: for a kind, and for each of its cases
MEMORY = 3 * 2**30  # bytes a case may take beyond what the process had at its start


class TooSlow(BaseException):
    "No reader may catch it."


def stop(*_):
    raise TooSlow


def where(error: BaseException) -> str:
    "The innermost line of the project that was being run."
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}sevlm{os.sep}" in f.filename]
    return f"{Path(frames[-1].filename).name}, {frames[-1].name}" if frames else "the test itself"


def run_kind(name: str, cases: int, seed: int, seeds: Path, limit: bool = True) -> dict:
    "In this process: so many cases of a kind; with `limit`, its memory is limited from now on."
    import psutil
    from fuzz.kinds import make_kinds
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    with tempfile.TemporaryDirectory() as folder:
        deep = Path(folder) / "a" / "b" / "c"  # where `..` and `../..` lead nowhere
        deep.mkdir(parents=True)
        before = os.getcwd()
        os.chdir(deep)
        kind = make_kinds(seeds, Path(folder).resolve())[name]
        if limit:
            most = psutil.Process().memory_info().vms + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        signal.signal(signal.SIGPROF, stop)
        findings, times, done, slowest = {}, Counter(), [], [0.0]

        def record(error, case):
            key, small = f"{type(error).__name__} in {where(error)}", repr(case)[:3000]
            if key not in findings or len(small) < len(findings[key]["case"]):
                trace = "".join(traceback.format_exception(error))[-3000:]
                findings[key] = dict(text=f"{key}: {str(error)[:160]}", case=small, trace=trace)
            times[key] += 1

        def one(case):
            begin = time.monotonic()
            signal.setitimer(signal.ITIMER_PROF, DEADLINE)
            try:
                kind.run(case)
            except ExceptionGroup as e:
                for error in e.exceptions:
                    record(error, case)
            except (Exception, TooSlow) as e:
                record(e, case)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            done.append(1)
            slowest[0] = max(slowest[0], time.monotonic() - begin)

        how = settings(
            max_examples=cases,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        begin = time.monotonic()
        try:
            seeded(seed)(how(given(kind.cases)(one)))()
        finally:
            os.chdir(before)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for key in findings:
        findings[key]["times"] = times[key]
    return dict(cases=len(done), seconds=time.monotonic() - begin, slowest=slowest[0], peak=peak, findings=findings)


def lost(why: str) -> dict:
    "The result of a process that did not end as it should."
    finding = dict(text=why, case="", trace="", times=1)
    return dict(cases=0, seconds=0.0, slowest=0.0, peak=0.0, findings={"the process": finding})


def campaign(counts: dict[str, int], seed: int, seeds: Path) -> dict[str, dict]:
    "Kind -> cases, seconds, slowest case, megabytes at most, findings. A process that dies is a finding, too."
    results = {}
    for name, cases in counts.items():
        argv = [sys.executable, HERE, "--one", name, "--cases", cases, "--seed", seed, "--seeds", seeds]
        patience = PATIENCE + SECONDS * cases
        try:
            ended = subprocess.run(list(map(str, argv)), capture_output=True, encoding="utf-8", timeout=patience)
        except subprocess.TimeoutExpired:
            results[name] = lost(f"not done after {patience} seconds")
            continue
        try:
            results[name] = json.loads(ended.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            results[name] = lost(f"the process ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return results


def report(results: dict[str, dict]) -> list[str]:
    "Figures by kind, then the findings."
    every = [(name, f) for name, r in results.items() for f in r["findings"].values()]
    row = "{:<12}{:>7}{:>10}{:>9.1f}{:>9.2f}{:>7.0f}".format
    lines = [f"{'kind':<12}{'cases':>7}{'findings':>10}{'seconds':>9}{'slowest':>9}{'MB':>7}"]
    for name, r in results.items():
        lines.append(row(name, r["cases"], len(r["findings"]), r["seconds"], r["slowest"], r["peak"]))
    cases, seconds, slowest, peak = zip(
        *([r[k] for k in ("cases", "seconds", "slowest", "peak")] for r in results.values())
    )
    lines.append(row("all", sum(cases), len(every), sum(seconds), max(slowest), max(peak)))
    return lines + [f"- {name}, {f['times']} times: {f['text']}\n    {f['case'][:300]}" for name, f in every]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, help="of each kind (default: as many as pay, 17,000 together)")
    parser.add_argument("--kinds", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=Path)
    parser.add_argument("--findings", type=Path, help="write them there, as JSON")
    parser.add_argument("--one")
    args = parser.parse_args()
    if args.one:
        print("\n" + json.dumps(run_kind(args.one, args.cases, args.seed, args.seeds)))
        return 0
    counts = {name: args.cases or CASES[name] for name in args.kinds.split(",")}
    with tempfile.TemporaryDirectory() as folder:
        from fuzz.kinds import make_seeds

        results = campaign(counts, args.seed, args.seeds or make_seeds(Path(folder)))
    print("\n".join(report(results)))
    if args.findings:
        args.findings.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 1 if any(r["findings"] for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

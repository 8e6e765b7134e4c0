"""Runs pages and tests in turn as other processors would compute them, and says which page or test differs.

    make portable                           all conditions, about ten minutes each on two cores
    make portable PORTABLE='--only b,c'     some of them; see --help

PyTorch's own kernels, oneDNN's and MKL's each choose by what the processor can do; environment variables take some
of it away. A condition is finished when pages and tests have run to their end; its log and result lie in
build/portable, and the same command goes on where it was broken off. Contributors run this when they have changed
anything numeric; CI runs the first condition only, which is `make test`.

oneDNN's names of what it may use: https://oneapi-src.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
"""

import argparse
import fnmatch
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "portable"
GOALS = ("notebooks", "pytest")  # of the Makefile, which says how pages and tests are run
DECIDE = (  # variables that decide how is computed: what the caller has set would make another machine of this one
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "SEVLM_THREADS",
)


@dataclass(frozen=True)
class Condition:
    "A way of computing."

    letter: str
    what: str
    env: dict = field(default_factory=dict)
    missing: str = ""  # why it cannot be had on this machine


def cpu_flags(text: str) -> set[str]:
    "What a processor can do, from the text of /proc/cpuinfo."
    found = re.search(r"^flags\s*:\s*(.*)$", text, re.M)
    return set(found[1].split()) if found else set()


def conditions(flags: set[str], threads: int) -> list[Condition]:
    "The conditions, with those marked that this machine cannot have."
    known = "" if flags else "the processor does not say what it can do (no flags in /proc/cpuinfo)"
    avx2 = known or ("" if "avx2" in flags else "the processor has no AVX2")
    sse = known or ("" if "sse4_1" in flags else "the processor has no SSE4.1")
    bf16 = known or ("" if flags & {"avx512_bf16", "amx_bf16"} else "the processor has no bfloat16 units")
    amx = known or ("" if "amx_bf16" in flags else "the processor has no matrix units (AMX)")
    two = "" if threads > 1 else "there is one core only"
    avx2_only = dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2")
    sse_only = dict(ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_ENABLE_INSTRUCTIONS="SSE4_2")
    return [
        Condition("a", "the machine as it is"),
        Condition("b", "AVX2 only", avx2_only, avx2),
        Condition("c", "no vectors beyond SSE4", sse_only, sse),
        Condition("d", "two OpenMP threads", dict(OMP_NUM_THREADS="2"), two),
        Condition("e", "without bfloat16 units", dict(ONEDNN_MAX_CPU_ISA="AVX512_CORE_VNNI"), bf16),  # with them: (a)
        Condition("f", "without matrix units", dict(ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16"), amx),  # with them: (a)
    ]


def failures(log: str) -> list[str]:
    "The pages and tests that failed, by the last lines of nbdev_test and pytest."
    pages = re.search(r"nbdev Tests Failed On The Following Notebooks:\n=+\n((?:\s+\S+\.ipynb\n?)+)", log)
    tests = re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", log, re.M)
    return sorted({*(pages[1].split() if pages else ()), *tests})


def table(results: dict[str, list[str]], names: dict[str, str], missing: dict[str, str]) -> list[str]:
    "Lines: each page or test that failed anywhere, under which conditions it did, and which conditions were left out."
    lines = [f"({letter}) {names[letter]}: left out, {why}" for letter, why in missing.items()]
    failed = sorted({name for found in results.values() for name in found})
    if not results:
        return [*lines, "nothing was run"]
    if not failed:
        ran = ", ".join(f"({letter}) {names[letter]}" for letter in results)
        return [*lines, f"no page and no test failed under {ran}"]
    lines += [f"({letter}) {names[letter]}: {len(found)} failed" for letter, found in results.items()]
    width = max(map(len, failed))
    lines += ["", "  ".join([" " * width, *(letter.center(4) for letter in results)])]
    for name in failed:
        marks = ["FAIL" if name in found else " ok " for found in results.values()]
        differs = "a" in results and len(set(marks)) > 1
        lines.append("  ".join([name.ljust(width), *marks]) + "  differs from (a)" * differs)
    return lines


def pages_of(pattern: str) -> list[str]:
    "The pages that `make notebooks` takes for a pattern of names: '02*' of any folder, 'course/02*' of that one."
    folder, _, name = pattern.rpartition("/")
    pages = [p.relative_to(ROOT / "nbs") for p in (ROOT / "nbs" / folder).rglob("*.ipynb")]
    pages = [p for p in pages if not any(part.startswith((".", "_")) for part in p.parts)]
    return sorted(p.as_posix() for p in pages if fnmatch.fnmatch(p.name, name or "*"))


def tree() -> str:
    "A fingerprint of all that pages and tests read: tracked files as they are now, and new ones."
    ran = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    if ran.returncode:
        return f"no git checkout, {time.time()}"  # whether finished conditions are of the same files is not known
    files = ran.stdout.split(b"\0")
    digest = hashlib.sha256()
    for name in sorted(filter(None, files)):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def progress(line: str, done: int, pages: int) -> tuple[list[str], int]:
    "What of a line of the log is shown, and how many pages have ended."
    shown = []
    for name in re.findall(r"- Completed (.+?\.ipynb)", line):  # two workers may write into one line
        done += 1
        shown.append(f"page {done} of {pages}: {name.split('/nbs/')[-1]}")
    if found := re.match(r"[.FEsxX]+ +\[ *(\d+%)\]", line):
        shown.append(f"tests: {found[1]}")
    if line.startswith("== ") or re.match(r"=* ?\d+ (passed|failed|skipped|error)", line):
        shown.append(line.strip())
    return shown, done


def run(condition: Condition, pages: int, variables: list[str]) -> dict:
    "Pages and tests under a condition; all that they print goes into a log, how far they are on the screen."
    log, began, failed, done = FOLDER / f"{condition.letter}.log", time.monotonic(), [], 0
    env = {k: v for k, v in os.environ.items() if k not in DECIDE} | condition.env | {"PYTHONUNBUFFERED": "1"}
    how = dict(cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")
    variables = [f"THREADS={condition.env.get('OMP_NUM_THREADS', 1)}", *variables]
    with open(log, "w", encoding="utf-8") as file:
        for goal in GOALS:
            text = ""
            with subprocess.Popen(["make", "--no-print-directory", goal, *variables], **how) as process:
                try:
                    for line in process.stdout:
                        text += line
                        file.write(line)
                        file.flush()
                        shown, done = progress(line, done, pages)
                        for what in shown:
                            print(f"  ({condition.letter}) {time.monotonic() - began:5.0f} s  {what}", flush=True)
                except KeyboardInterrupt:
                    process.communicate()  # Ctrl-C has reached it as well; none of its tests shall go on unseen
                    raise
            named = failures(text)
            if process.returncode and not named:  # it was killed, for instance, before it could name one
                named = [f"{goal} (see {log.relative_to(ROOT)})"]
            failed += named
    return dict(failed=failed, seconds=round(time.monotonic() - began))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="LETTERS", help="conditions, such as b,c")
    parser.add_argument("--pages", default="", metavar="GLOB", help="pages by name, such as '02*' or 'course/*'")
    parser.add_argument("--tests", default="", metavar="WORDS", help="for pytest, such as 'tests/test_vad.py -k scale'")
    parser.add_argument("--fresh", action="store_true", help="also run what was finished before on the same files")
    args = parser.parse_args(argv)
    info = Path("/proc/cpuinfo")
    every = conditions(cpu_flags(info.read_text(encoding="utf-8")) if info.is_file() else set(), os.cpu_count() or 1)
    letters = set(args.only.replace(",", " ").split()) or {c.letter for c in every}
    if unknown := letters - {c.letter for c in every}:
        known = ", ".join(f"{c.letter} ({c.what})" for c in every)
        parser.error(f"no condition {', '.join(sorted(unknown))}; there are {known}.")
    pages = len(pages_of(args.pages))
    if not pages:
        parser.error(
            f"no page in nbs/ is called {args.pages!r}; give a name such as 'course/01_lexicon.ipynb', or '02*'."
        )
    variables = [f"PAGES={args.pages}"] * bool(args.pages) + [f"TESTS={args.tests}"] * bool(args.tests)
    FOLDER.mkdir(parents=True, exist_ok=True)
    what, results, missing = json.dumps([tree(), variables]), {}, {}
    for condition in (c for c in every if c.letter in letters):
        if condition.missing:
            missing[condition.letter] = condition.missing
            continue
        stamp = FOLDER / f"{condition.letter}.json"
        done = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() and not args.fresh else {}
        if done.get("what") != what:
            settings = " ".join(f"{k}={v}" for k, v in condition.env.items())
            print(f"({condition.letter}) {condition.what}  {settings}", flush=True)
            stamp.unlink(missing_ok=True)
            done = dict(run(condition, pages, variables), what=what)
            new = stamp.with_suffix(".new")
            new.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
            new.replace(stamp)
        else:
            print(f"({condition.letter}) {condition.what}: finished before")
        results[condition.letter] = done["failed"]
        print(f"({condition.letter}) {len(done['failed'])} failed, {done['seconds']} s", flush=True)
    print("", *table(results, {c.letter: c.what for c in every}, missing), sep="\n")
    return int(any(results.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; finished conditions are kept, the same command goes on.", file=sys.stderr)
        sys.exit(130)

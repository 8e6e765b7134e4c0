"""Which lines of sevlm/ do pages and tests run? (`make coverage`)

    python tools/covered.py                                                # everything: an hour or more on two cores
    python tools/covered.py --pages 'library/*' --tests tests/test_vad.py  # a part
    python tools/covered.py --more --tests tests/test_vad.py               # add to what was counted before

Worker processes and commands are counted, too. A page counts what it calls of other modules; what it defines itself is
counted where a test or another page calls the module. The report of everything fails below the share that
pyproject.toml asks for; that of a part does not.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "coverage"
SETTINGS = f"--rcfile={ROOT / 'pyproject.toml'}"


def page_words(pattern: str) -> list[str]:
    "nbdev_test, one process of pages, for a pattern such as 'course/0*'; '' takes all pages."
    folder, _, name = pattern.rpartition("/")
    some = ["--path", f"nbs/{folder}", "--file_glob", name] if pattern else []
    return [str(Path(sys.executable).parent / "nbdev_test"), "--do_print", "--n_workers", "1", *some]


def pytest_words(files: list[str]) -> list[str]:
    "pytest; no files takes all."
    return ["-m", "pytest", "-q", "-p", "no:cacheprovider", *files]


def coverage(*words: str) -> int:  # exit code
    "A command of coverage.py, its data in a folder of their own."
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SEVLM_CACHE": str(ROOT / "build" / "cache"),
        "COVERAGE_FILE": str(FOLDER / "data"),
    }
    return subprocess.run([sys.executable, "-m", "coverage", *words], cwd=ROOT, env=env).returncode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", metavar="GLOB", help="these pages; without --tests no tests")
    parser.add_argument("--tests", nargs="+", metavar="WORD", help="words for pytest; without --pages no pages")
    parser.add_argument("--more", action="store_true", help="add to what was counted before")
    args = parser.parse_args(argv)
    everything = args.pages is None and args.tests is None
    if not args.more:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    codes = []
    if everything or args.tests is not None:
        codes.append(coverage("run", SETTINGS, *pytest_words(args.tests or [])))
    if everything or args.pages is not None:
        codes.append(coverage("run", SETTINGS, *page_words(args.pages or "")))
    codes.append(coverage("combine", SETTINGS, "--quiet", "--append"))
    codes.append(coverage("report", SETTINGS, "--sort=cover", *([] if everything else ["--fail-under=0"])))
    return int(any(codes))  # one that was killed has a negative code


if __name__ == "__main__":
    sys.exit(main())

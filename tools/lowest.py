"""The lowest versions that settings.ini allows: can they be had together, and does the library work with them?

    python tools/lowest.py                              # all tests but those of the tools
    python tools/lowest.py -- tests/test_vad.py -x      # words for pytest after --

Every requirement of the core and of the extras is taken at its lower bound; what only the tests need is taken at the
tested version. The oldest Python is used: later ones have no wheels of the lowest versions. A bound that no
installation can reach, since another requirement asks for more, is an error: the range says what is true.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from environments import (
    ROOT,
    WORK,
    ReleaseError,
    installed,
    new_environment,
    pins_of,
    reached,
    read_settings,
    requirements,
    tools_of_tests,
    uv,
)

TOOLS_ONLY = ("layout", "setup", "portable", "wheel", "tidy")  # tests of the repository and of its tools
LOWEST = ("--resolution", "lowest-direct")


def unreachable(python: str) -> list[str]:
    "The bounds that are not reached, each with the version that the lowest installation has instead."
    found = []
    for extra, bounds in requirements(read_settings()).items():
        words = ["--extra", extra] if extra else []
        text = uv("pip", "compile", "--quiet", *LOWEST, "--python-version", python, *words, "setup.py", capture=True)
        versions = pins_of(text.splitlines())
        for name, bound in bounds.items():
            if not reached(versions[name], bound):
                found.append(f"{extra or 'core'}: {name}>={bound}, but {versions[name]} is the lowest to be had")
    return found


def make_lowest(folder: Path, python: str) -> Path:  # its Python
    "An environment with every requirement of a user at its lower bound, and the tools of the tests; says what it has."
    own = new_environment(folder, python)
    uv("pip", "install", "--quiet", "--python", own, *LOWEST, "--editable", ".[notebooks]", *tools_of_tests())
    versions = installed(own)
    for bounds in requirements(read_settings()).values():
        for name, bound in bounds.items():
            more = "" if reached(versions[name], bound) else "   # another extra asks for more"
            print(f"  {name} >= {bound}: {versions[name]}{more}")
    return own


def run_tests(own: Path, words: list[str]) -> int:  # exit code
    "pytest in the environment; without words all tests that are about the library."
    ignored = [f"--ignore=tests/test_{name}.py" for name in TOOLS_ONLY]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SEVLM_CACHE": str(WORK / "cache-lowest")}
    pytest = [own, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(words or [*ignored, "tests"])]
    return subprocess.run([str(word) for word in pytest], cwd=ROOT, env=env).returncode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    oldest = read_settings()["min_python"]
    parser.add_argument("--python", default=oldest, help=f"a version or a path; {oldest} unless given")
    parser.add_argument("--keep", action="store_true", help="take the environment that is there")
    parser.add_argument("words", nargs="*", help="for pytest, after --")
    args = parser.parse_args(argv)
    folder = WORK / "lowest"
    if found := unreachable(oldest):
        raise ReleaseError("\n".join(["bounds in settings.ini that no installation has:", *found]))
    own = folder / "bin" / "python"
    if not args.keep:
        own = make_lowest(folder, args.python)
    elif not own.is_file():
        raise ReleaseError(f"no environment in {folder}; run it once without --keep")
    return run_tests(own, args.words)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReleaseError as error:
        sys.exit(f"lowest: {error}")

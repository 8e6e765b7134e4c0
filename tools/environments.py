"""Environments away from .venv, for a release, for the lower bounds and for an audit.

They are made with uv: it can take the lowest versions that the requirements allow, which pip cannot, and it links files
from its cache, so that several environments with PyTorch take the room of one.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build"  # ignored by git


class ReleaseError(Exception):
    "Says what is wrong and how to mend it."


def find_uv() -> str:  # path of the program
    "uv beside the Python that runs this, or on the PATH. Raises `ReleaseError` if there is none."
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise ReleaseError("uv is not installed; it is a requirement of developers: make setup")
    return found


def run(
    *command: str | Path,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,  # None: that of this process
    capture: bool = False,
) -> str:  # what it printed, if captured
    "A command that has to succeed. Raises `ReleaseError` with its exit code, and with its last lines if captured."
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=capture, text=True)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:]) if capture else "see above"
        raise ReleaseError(f"`{' '.join(words)}` ended with exit code {done.returncode}:\n{last}")
    return done.stdout if capture else ""


def uv(*words: str | Path, capture: bool = False) -> str:  # what it printed, if captured
    "A command of uv, from the root of the repository."
    return run(find_uv(), *words, capture=capture)


def new_environment(
    folder: Path,  # made anew
    python: str,  # a version such as 3.12, or the path of a Python
) -> Path:  # of its Python
    "An empty environment."
    shutil.rmtree(folder, ignore_errors=True)
    uv("venv", "--quiet", "--python", python, folder)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def installed(python: Path) -> dict[str, str]:  # normalised name -> version
    "What is installed in an environment."
    lines = uv("pip", "freeze", "--quiet", "--python", python, capture=True).splitlines()
    return pins_of(lines)


def normalised(name: str) -> str:
    "A package's name as indexes compare it: huggingface_hub and Huggingface-Hub are one."
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(lines: Iterable[str]) -> dict[str, str]:  # normalised name -> version
    "The pins `name==version` among some lines; others are passed over."
    found = (re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines)
    return {normalised(m[1]): m[2] for m in found if m}


def reached(version: str, bound: str) -> bool:
    "Is a version the one that the bound names? 3.9.0 is 3.9."
    parts, wanted = version.split("."), bound.split(".")
    return parts[: len(wanted)] == wanted


def read_settings(root: Path = ROOT) -> dict[str, str]:
    "The settings that everything about the package is read from."
    parser = ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def requirements(settings: dict[str, str]) -> dict[str, dict[str, str]]:  # extra ('': core) -> name -> lower bound
    "The lower bound of every requirement of a user. Raises `ReleaseError` where one has none."
    found: dict[str, dict[str, str]] = {}
    for key, text in settings.items():
        if key == "requirements" or key.startswith("extra_"):
            bounds = {}
            for need in text.split():
                m = re.match(r"([\w.-]+)>=([\d.]+)(?:,<[\d.]+)?$", need)
                if m is None:
                    raise ReleaseError(f"settings.ini, {key}: {need!r} has no lower bound; expected name>=version")
                bounds[normalised(m[1])] = m[2]
            found[key.removeprefix("extra_") if key != "requirements" else ""] = bounds
    return found


def tools_of_tests(root: Path = ROOT) -> list[str]:
    "What tests and pages are run with, at the versions that constraints.txt has."
    tested = pins_of((root / "constraints.txt").read_text(encoding="utf-8").splitlines())
    names = [re.split(r"[<>=]", need)[0] for need in read_settings(root)["dev_requirements"].split()]
    return [f"{name}=={tested[normalised(name)]}" for name in names if normalised(name) in tested]

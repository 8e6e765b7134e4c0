"""Build the wheel and the sdist, look at what is in them, and use both where nothing else of the project is.

    python tools/release.py                                     # with this Python, at the tested versions
    python tools/release.py --python 3.12 --versions newest     # with others; a Python by its version or its path

Each installation is an environment of its own in a folder with a space in its name, with the requirements of the core
only: at the versions of constraints.txt ('tested'), at the lowest that settings.ini allows ('lowest'), or at the
newest ('newest'). There the shipped model explains a synthetic painting, by the command and from Python, with an empty
home and no network for the hub. The files are left in dist/.
"""

import argparse
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from environments import (
    ROOT,
    WORK,
    ReleaseError,
    installed,
    new_environment,
    normalised,
    reached,
    read_settings,
    requirements,
    run,
    uv,
)

DIST = ROOT / "dist"
VERSIONS = {
    "tested": ("--constraint", "constraints.txt"),
    "lowest": ("--resolution", "lowest-direct"),
    "newest": (),
}
LARGEST = 20_000_000  # bytes of the wheel or the sdist: an index takes more, a user's line may not
BESIDE = r"(PKG-INFO|MANIFEST\.in|setup\.(py|cfg)|pyproject\.toml|settings\.ini|LICENSE|\w+\.(md|cff)|sevlm\.egg-info/)"
PAINTINGS = 20  # of the synthetic set that is used for the trial

IN_PYTHON = """
import json, sys
import sevlm
explain = sevlm.load()
answer = explain(sys.argv[1])
print(json.dumps(dict(place=sevlm.__file__, version=sevlm.__version__, emotion=answer.emotion, text=str(answer))))
"""


# ---- what is in them


def read_archive(path: Path) -> dict[str, bytes]:  # name -> content
    "The files in a wheel or in an sdist; of an sdist without the folder that holds them all."
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    with tarfile.open(path) as archive:
        members = [m for m in archive.getmembers() if m.isfile()]
        return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in members}


def package_files(root: Path = ROOT) -> set[str]:
    "The files of the package that are under version control: modules, assets and py.typed."
    names = run("git", "ls-files", "-z", "sevlm", cwd=root, capture=True).split("\0")
    return {name for name in names if name}


def check_files(files: dict[str, bytes], wanted: set[str], others: str) -> list[str]:  # what is wrong
    "Is everything of the package in an archive, and nothing but what the pattern `others` allows?"
    found = [f"{name} is missing" for name in sorted(wanted - set(files))]
    return found + [
        f"{name} does not belong there" for name in sorted(set(files) - wanted) if not re.match(others, name)
    ]


def check_privacy(files: dict[str, bytes], places: list[str]) -> list[str]:  # what is wrong
    "Does a file name a folder of the machine where it was made?"
    return [f"{name} names {place}" for name, data in files.items() for place in places if place.encode() in data]


def in_parts(need: str) -> tuple[str, frozenset[str]]:  # normalised name, bounds
    "A requirement, so that two ways of writing it are equal: 'a_b >=1,<2' and 'a-b<2,>=1'."
    name, bounds = re.match(r"([\w.-]+)(.*)", need).groups()
    return normalised(name), frozenset(filter(None, bounds.replace(" ", "").strip("()").split(",")))


def check_metadata(text: str, settings: dict[str, str]) -> list[str]:  # what is wrong
    "Are version, Python, licence, type of the description and requirements those of the settings?"
    found = email.message_from_string(text)
    wanted = {
        "Name": settings["lib_name"],
        "Version": settings["version"],
        "Requires-Python": f">={settings['min_python']}",
        "License-Expression": "Apache-2.0",
        "Description-Content-Type": "text/markdown",
    }
    wrong = [f"{key}: {found[key]!r}, expected {value!r}" for key, value in wanted.items() if found[key] != value]
    core = {in_parts(need) for need in found.get_all("Requires-Dist") or [] if "extra ==" not in need}
    asked = {in_parts(need) for need in settings["requirements"].split()}
    wrong += [
        f"requires {name}{','.join(sorted(bounds))}, which settings.ini does not" for name, bounds in core - asked
    ]
    wrong += [f"does not require {name}{','.join(sorted(bounds))}" for name, bounds in asked - core]
    links = re.findall(r"\]\((?![a-z]+:|#)([^)]+)\)", found.get_payload())
    return wrong + [f"the description links to {link}, which an index does not have" for link in links]


def check_archives(wheel: Path, sdist: Path, root: Path = ROOT) -> list[str]:  # what is wrong
    "Everything that can be said of the two files without installing them."
    settings, wanted, wrong = read_settings(root), package_files(root), []
    info = f"{settings['lib_name']}-{settings['version']}.dist-info"
    for path, others in ((wheel, re.escape(info) + "/"), (sdist, BESIDE)):
        files = read_archive(path)
        metadata = files.get(f"{info}/METADATA") or files.get("PKG-INFO", b"")
        found = check_files(files, wanted, others)
        found += check_privacy(files, [str(root), f"{Path.home()}{os.sep}"])
        found += check_metadata(metadata.decode("utf-8"), settings)
        if path.stat().st_size > LARGEST:
            found.append(f"{path.stat().st_size:,} bytes, expected at most {LARGEST:,}")
        wrong += [f"{path.name}: {what}" for what in found]
        print(f"  {path.name}: {len(files)} files, {path.stat().st_size:,} bytes")
    return wrong


# ---- using them


def clean_variables(own: Path, home: Path) -> dict[str, str]:
    "The environment of a user who has nothing but this installation."
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "LD_LIBRARY_PATH") if name in os.environ}
    path = os.pathsep.join([str(own.parent), "/usr/bin", "/bin"])
    return {**kept, "PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}


def use(own: Path, version: str, folder: Path) -> str:  # the explanation
    "Explains a synthetic painting by the command and from Python. Raises `ReleaseError` where something is otherwise."
    home = folder / "home"
    home.mkdir(parents=True)
    env = clean_variables(own, home)
    call = lambda *words: run(*words, cwd=folder, env=env, capture=True)
    told = [call("sevlm", "--version"), call(own, "-m", "sevlm", "--version")]
    if any(version not in text for text in told):
        raise ReleaseError(f"`sevlm --version` says {told}, expected {version}")
    call("sevlm", "mini", "a set", "--paintings", str(PAINTINGS), "--seed", "1")
    picture = next((folder / "a set" / "wikiart").rglob("*.jpg"))
    call("sevlm", "inspect", picture)
    (answer,) = json.loads(call("sevlm", "explain", picture, "--json"))
    found = json.loads(call(own, "-c", IN_PYTHON, picture))
    if not Path(found["place"]).is_relative_to(own.parents[1]) or found["version"] != version:
        raise ReleaseError(f"`import sevlm` took {found['place']}, version {found['version']}")
    if found["emotion"] != answer["emotion"] or abs(sum(answer["probabilities"].values()) - 1) > 1e-4:
        raise ReleaseError(f"the command says {answer}, Python says {found}")
    return found["text"]


def above_bounds(versions: dict[str, str], bounds: dict[str, str]) -> list[str]:  # what is wrong
    "Which versions, by normalised name, are not those of their lower bounds?"
    return [
        f"{name} is {versions.get(name, 'missing')}, expected {bound}"
        for name, bound in bounds.items()
        if not reached(versions.get(name, ""), bound)
    ]


def try_out(archive: Path, python: str, versions: str, version: str) -> None:
    "Installs an archive in an environment of its own, and uses it."
    name = f"{'wheel' if archive.suffix == '.whl' else 'sdist'} {versions} {python.replace(os.sep, '_')}"
    own = new_environment(WORK / "release" / name, python)
    settings, lowest = read_settings(), versions == "lowest"
    # uv takes the requirements of an archive for indirect ones: those of the core are named once more, to be direct
    direct = settings["requirements"].split() if lowest else []
    uv("pip", "install", "--quiet", "--python", own, *VERSIONS[versions], *direct, archive)
    uv("pip", "check", "--quiet", "--python", own)
    if lowest and (wrong := above_bounds(installed(own), requirements(settings)[""])):
        raise ReleaseError("\n".join(["not the lowest versions:", *wrong]))
    with tempfile.TemporaryDirectory(prefix="a user ") as folder:
        said = use(own, version, Path(folder))
    print(f"  {name}: {said}", flush=True)


def build() -> None:
    "The sdist, and the wheel made from it, in an empty dist/."
    print("== wheel and sdist, the wheel made from the sdist", flush=True)
    shutil.rmtree(DIST, ignore_errors=True)
    uv("build", "--quiet", "--out-dir", DIST, "--build-constraints", "constraints.txt")


def built(version: str) -> tuple[Path, Path]:  # wheel, sdist
    "What is in dist/. Raises `ReleaseError` if that is not one of each, of this version."
    found = sorted(path.name for path in DIST.glob("*")) if DIST.is_dir() else []
    names = [name for name in found if not name.startswith(".")]  # uv leaves a .gitignore
    wanted = [f"sevlm-{version}-py3-none-any.whl", f"sevlm-{version}.tar.gz"]
    if names != wanted:
        raise ReleaseError(f"dist/ holds {', '.join(names) or 'nothing'}; expected {' and '.join(wanted)}")
    return DIST / wanted[0], DIST / wanted[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", nargs="+", default=[sys.executable], help="versions or paths; this one unless given"
    )
    parser.add_argument("--versions", nargs="+", default=["tested"], choices=VERSIONS, help="of the requirements")
    parser.add_argument("--only-build", action="store_true", help="build and look, install nothing")
    parser.add_argument("--no-build", action="store_true", help="use what is in dist/")
    args = parser.parse_args(argv)
    version = read_settings()["version"]
    if not args.no_build:
        build()
    wheel, sdist = built(version)
    if wrong := check_archives(wheel, sdist):
        raise ReleaseError("\n".join(wrong))
    uv("tool", "run", "--constraints", "constraints.txt", "twine", "check", "--strict", wheel, sdist)
    for python in [] if args.only_build else args.python:
        print(f"== {python}", flush=True)
        for versions in args.versions:
            for archive in (wheel, sdist):
                try_out(archive, python, versions, version)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ReleaseError, subprocess.SubprocessError) as error:
        sys.exit(f"release: {error}")

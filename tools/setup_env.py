"""Makes, updates or mends .venv beside the project; `make setup` calls it, and so does every other goal of the
Makefile.

Nothing is done if .venv was made from what settings.ini, setup.py and constraints.txt hold now: contents decide,
not times. Whatever an interrupted set-up has left is repaired. An environment without a whole pip, or of another
place, is made anew. A package that is not all there is forgotten, so that pip installs it again: pip itself neither
notices that files are missing, nor can it remove a package whose list of files was not yet written.

Standard library only, and in the syntax of Python 3.8, so that an old Python says that it is old.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path

FILES = ("settings.ini", "setup.py", "constraints.txt")
PROJECT = ("--editable", ".[dev]")
OLDEST = (3, 11)


class SetupError(Exception):
    "Says what is wrong and how to mend it."


def number(version):  # -> text such as 3.11
    return ".".join(str(part) for part in tuple(version)[:2])


def check_python(version=sys.version_info, find=find_spec, apt=None):
    "Refuses a Python that is too old, or cannot make environments. `apt`: it came with Debian or its like."
    if tuple(version[:2]) < OLDEST:
        text = "sevlm needs Python {0} or later, found {1}; run: make PYTHON=python{0} ..."
        raise SetupError(text.format(number(OLDEST), number(version)))
    lacking = [name for name in ("venv", "ensurepip") if find(name) is None]
    if not lacking:
        return
    if apt is None:
        apt = sys.base_prefix == "/usr" and shutil.which("apt-get") is not None
    if apt:
        mend = f"apt install python{number(version)}-venv"
    else:
        mend = "install them with your system's packages, or name a complete Python: make PYTHON=... setup"
    text = "{} comes without {}, which set-up needs. Mend it: {}"
    raise SetupError(text.format(sys.executable, " and ".join(lacking), mend))


def call(command, cwd=None):  # -> exit code
    "Runs a command. Ctrl-C reaches it as well; it is given the time to clean up."
    process = subprocess.Popen(command, cwd=cwd)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def fingerprint(root):  # -> text
    "What is asked for: the contents of FILES, and the place."
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((root / name).read_bytes() + b"\0")
    return f"{digest.hexdigest()} {root}"


def python_of(venv):
    return venv / "bin" / "python"


def version_of(venv):  # -> (major, minor), or None if it is no environment
    "The Python that an environment was made with."
    try:
        text = (venv / "pyvenv.cfg").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^version(?:_info)? = (\d+)\.(\d+)", text, re.M)
    return (int(found.group(1)), int(found.group(2))) if found else None


def site_of(venv):
    return venv / "lib" / "python{}.{}".format(*version_of(venv)) / "site-packages"


def damaged(venv):  # -> folders *.dist-info
    "The packages that are not all there: without their description or list of files, or with files missing or cut off."
    found = []
    for info in sorted(site_of(venv).glob("*.dist-info")):
        files = Distribution.at(info).files if (info / "METADATA").is_file() else None
        if files is None or not all(map(is_whole, files)):
            found.append(info)
    return found


def is_whole(file):
    "Is a file of a package there, in its full size? Compiled files may be missing."
    if file.suffix == ".pyc":
        return True
    try:
        return os.stat(str(file.locate())).st_size == (file.size or os.stat(str(file.locate())).st_size)
    except OSError:
        return False


def forget(venv, info):
    "Removes a package, however much of it is there."
    for file in Distribution.at(info).files or ():
        path = Path(os.path.normpath(str(file.locate())))
        if venv in path.parents and path.is_file():
            path.unlink()
    shutil.rmtree(str(info))


def remove_leftovers(venv):
    "Removes what pip had put aside, under names with a tilde, when it was killed while it replaced a package."
    for path in site_of(venv).glob("~*"):
        if path.is_dir():
            shutil.rmtree(str(path))
        else:
            path.unlink()


def usable(venv, version=None):  # -> bool
    "Is it an environment of this place, with a whole pip, and of a new enough Python (or of the one that is given)?"
    own = version_of(venv)
    if own is None or own < OLDEST or (version and own != tuple(version[:2])):
        return False
    pips = list(site_of(venv).glob("pip-*.dist-info"))
    if len(pips) != 1 or pips[0] in damaged(venv):
        return False
    try:  # the first lines of a command name the environment's Python, and with it the place where it was made
        text = (venv / "bin" / "pip").read_text(encoding="utf-8", errors="replace")
        place = re.search(r"(/[^\"\n]*)/bin/python", text)
        if not place or not os.path.samefile(place.group(1), str(venv)):
            return False
        runs = [str(python_of(venv)), "-m", "pip", "--version"]
        return subprocess.call(runs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make_venv(venv):
    "An empty environment in place of whatever was there; none at all if it cannot be made."
    check_python()
    shutil.rmtree(str(venv), ignore_errors=True)
    if call([sys.executable, "-m", "venv", "--clear", str(venv)]):
        shutil.rmtree(str(venv), ignore_errors=True)
        text = "`{} -m venv {}` failed (see above). Mend that, or name another Python: make PYTHON=..."
        raise SetupError(text.format(sys.executable, venv))


def pip_install(root, venv):
    "The project and its requirements, within the tested versions."
    command = [str(python_of(venv)), "-m", "pip", "install", "--quiet", "--progress-bar", "on"]
    if call(command + ["--constraint", "constraints.txt", *PROJECT], cwd=str(root)):
        text = "pip failed (see above). Is there a network, and room on the disk (7 GB)? Then the same command goes on."
        raise SetupError(text)


def set_up(root, exact=False, say=print):  # -> bool: whether anything was done
    "Makes, updates or mends .venv. `exact`: it must be of the very Python that runs this, not of any that will do."
    venv, wanted = root / ".venv", fingerprint(root)
    stamp, version = venv / ".installed", sys.version_info if exact else None
    try:
        finished = stamp.read_text(encoding="utf-8") == wanted
    except (OSError, UnicodeDecodeError):
        finished = False
    own = version_of(venv)
    if finished and python_of(venv).exists() and own and (not exact or own == tuple(version[:2])):
        return False
    if not own:
        check_python()  # before anything is said of minutes
    say("== setting up .venv (PyTorch is large: a few minutes)")
    if stamp.exists():
        stamp.unlink()  # from here on it is unfinished, until it is finished
    if usable(venv, version):
        remove_leftovers(venv)
        for info in damaged(venv):
            say("== not all of {} is there; it will be installed again".format(info.name[: -len(".dist-info")]))
            forget(venv, info)
    else:
        make_venv(venv)
    pip_install(root, venv)
    stamp.write_text(wanted, encoding="utf-8")
    return True


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "with this very Python; without it an environment of any new enough one is kept"
    parser.add_argument("--exact", action="store_true", help=text)
    try:
        set_up(Path(__file__).resolve().parent.parent, parser.parse_args(argv).exact)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; the same command goes on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    sys.exit(main())

"""Makes or mends .venv beside the project; `make setup` calls it, and so does every other goal of the Makefile.

Nothing is done if .venv holds what settings.ini, setup.py and constraints.txt ask for, which is decided by their contents.
Whatever an interrupted set-up has left is repaired: an environment without pip, or of another place or Python, is made
anew; a package whose files are not all there is installed again. Standard library only, in words that an old Python reads.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

FILES = ("settings.ini", "setup.py", "constraints.txt")
OLDEST = (3, 11)
BROKEN = """
import importlib.metadata as m, sys
for d in m.distributions():
    name, files = d.metadata["Name"], d.files
    lost = [f for f in files or () if f.suffix != ".pyc" and not f.locate().exists()]
    if name and (files is None or lost):
        print(name + "==" + d.version)
"""


class SetupError(Exception):
    "Says what is wrong and how to mend it."


def check_python(version=sys.version_info, find=None, system=sys.platform):
    "Refuses a Python that is too old, or cannot make environments."
    from importlib.util import find_spec

    number = "{}.{}".format(*version[:2])
    if tuple(version[:2]) < OLDEST:
        wanted = "{}.{}".format(*OLDEST)
        raise SetupError("sevlm needs Python {0} or later, found {1}; run: make PYTHON=python{0} ...".format(wanted, number))
    lacking = [name for name in ("venv", "ensurepip") if (find or find_spec)(name) is None]
    if lacking:
        mend = "apt install python{}-venv".format(number) if system.startswith("linux") else "install Python {} from python.org".format(number)
        raise SetupError(
            "this Python ({}) comes without {}, which makes environments; run: {}   (or name another Python: make PYTHON=...)".format(
                sys.executable, " and ".join(lacking), mend
            )
        )


def fingerprint(root):  # -> text
    "What is asked for: the contents of FILES, this Python, and the place."
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((root / name).read_bytes() + b"\0")
    return "{} {}.{} {}\n".format(digest.hexdigest(), sys.version_info[0], sys.version_info[1], root)


def python_of(venv):
    return venv / "bin" / "python"


def usable(venv):  # -> bool
    "Is it an environment of this Python, in this place, with a pip that runs?"
    try:
        settings = dict(line.split(" = ", 1) for line in (venv / "pyvenv.cfg").read_text().splitlines() if " = " in line)
        place = (venv / "bin" / "pip").read_text(errors="replace")[:1000]
    except OSError:
        return False
    same = settings.get("version", "").split(".")[:2] == [str(n) for n in sys.version_info[:2]]
    if not same or str(venv) not in place:
        return False
    return subprocess.call([str(python_of(venv)), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def make_venv(venv):
    "An empty environment; what was there is removed first, and so is half of one."
    shutil.rmtree(str(venv), ignore_errors=True)
    code = subprocess.call([sys.executable, "-m", "venv", str(venv)])
    if code:
        shutil.rmtree(str(venv), ignore_errors=True)
        raise SetupError("`{} -m venv {}` failed (see above); mend that, or name another Python: make PYTHON=...".format(sys.executable, venv))


def pip_install(root, venv, *what):
    "pip in the environment, within the tested versions."
    command = [str(python_of(venv)), "-m", "pip", "install", "--quiet", "--progress-bar", "on", "--constraint", "constraints.txt"]
    if subprocess.call(command + list(what), cwd=str(root)):
        raise SetupError("pip failed (see above). Is there a network, and room on the disk (7 GB)? Then the same command goes on.")


def remove_leftovers(venv):
    "Removes what pip was replacing when it was killed; it begins with a tilde."
    for path in venv.glob("lib/python*/site-packages/~*"):
        if path.is_dir():
            shutil.rmtree(str(path), ignore_errors=True)
        else:
            path.unlink()


def broken_packages(venv):  # -> list of name==version
    "Packages of which pip believes that they are there, but whose files are not."
    ran = subprocess.run([str(python_of(venv)), "-c", BROKEN], stdout=subprocess.PIPE, universal_newlines=True, check=True)
    return ran.stdout.split()


def set_up(root, say=print):  # -> bool: whether anything was done
    "Makes, updates or mends .venv."
    venv, wanted = root / ".venv", fingerprint(root)
    stamp = venv / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted and python_of(venv).exists():
        return False
    check_python()
    say("== setting up .venv (PyTorch is large: a few minutes)")
    if not usable(venv):
        make_venv(venv)
    if stamp.exists():
        stamp.unlink()  # from here on it is unfinished, until it is finished
    remove_leftovers(venv)
    broken = [package for package in broken_packages(venv) if not package.startswith("sevlm==")]
    if broken:
        say("== installing again, since files are missing: " + " ".join(broken))
        pip_install(root, venv, "--force-reinstall", "--no-deps", *broken)
    pip_install(root, venv, "--editable", ".[dev]")
    stamp.write_text(wanted)
    return True


def main():
    try:
        set_up(Path(__file__).resolve().parent.parent)
    except SetupError as error:
        sys.exit("set-up: {}".format(error))
    except KeyboardInterrupt:
        sys.exit("set-up: interrupted; the same command goes on.")


if __name__ == "__main__":
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    main()

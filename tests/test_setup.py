"""Set-up looks at contents, mends what an interrupted one has left, and says in one line what a Python lacks.

No network: pip is the real one, but finds its packages, which are made here, in a folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "tools").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the tools are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))

import setup_env  # noqa: E402


def make_wheel(folder, name, version, **modules):
    "The smallest wheel that pip installs."
    info = f"{name}-{version}.dist-info"
    files = {f"{module}.py": text for module, text in modules.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{file},,{len(text)}\n" for file, text in files.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)


TESTED = "other==2.0\n"  # the constraints of the made-up project


def prepare(patch, root):
    "Two small packages instead of this project and 7 GB, and no network."
    patch.setattr(setup_env, "PROJECT", ("one", "other"))
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", (root / "wheels").as_uri())
    patch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A clone below a folder with a space in its name, set up."
    root = tmp_path_factory.mktemp("with a space") / "clone"
    (root / "wheels").mkdir(parents=True)
    make_wheel(root / "wheels", "one", "1.0", one="x = 1", one_more="x = 11")
    make_wheel(root / "wheels", "other", "1.0", other="x = 1")
    make_wheel(root / "wheels", "other", "2.0", other="x = 2")
    for name in setup_env.FILES:
        (root / name).write_text(TESTED if name == "constraints.txt" else "", encoding="utf-8")
    make_venv = setup_env.make_venv

    def make_and_copy(venv):
        make_venv(venv)
        shutil.copytree(venv, root / "empty", symlinks=True)

    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, root)
        patch.setattr(setup_env, "make_venv", make_and_copy)
        assert setup_env.set_up(root, say=str)
    return root


@pytest.fixture
def clone(finished, monkeypatch):
    """The clone, whole, with what set-up makes and says noted; a test that breaks it lets set-up mend it.

    An environment is copied, not made.
    """
    prepare(monkeypatch, finished)
    venv, made, said, asked = finished / ".venv", [], [], []
    pip_install = setup_env.pip_install

    def make_venv(venv):
        made.append(venv)
        shutil.rmtree(venv)
        shutil.copytree(finished / "empty", venv, symlinks=True)

    monkeypatch.setattr(setup_env, "make_venv", make_venv)
    monkeypatch.setattr(setup_env, "pip_install", lambda root, venv: (asked.append(venv), pip_install(root, venv)))
    site, info = setup_env.site_of(venv), setup_env.site_of(venv) / "one-1.0.dist-info"
    assert packages(venv) == "1 11 2"
    yield SimpleNamespace(
        root=finished,
        venv=venv,
        site=site,
        info=info,
        made=made,
        said=said,
        asked=asked,
        set_up=lambda **how: setup_env.set_up(finished, say=said.append, **how),
    )
    (finished / "constraints.txt").write_text(TESTED, encoding="utf-8")
    setup_env.set_up(finished, say=str)


def packages(venv):
    "What can be imported, asked from the environment's own Python."
    code = "import one, one_more, other; print(one.x, one_more.x, other.x)"
    ran = subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True)
    return ran.stdout.strip() or ran.stderr


# requirements that changed


def test_contents_decide_and_not_times(clone):
    for name in setup_env.FILES:
        os.utime(clone.root / name)
    assert not clone.set_up() and not clone.asked and not clone.said
    old = (clone.root / "constraints.txt").stat()
    (clone.root / "constraints.txt").write_text("other==1.0\n", encoding="utf-8")
    before = (old.st_atime - 1000, old.st_mtime - 1000)
    os.utime(clone.root / "constraints.txt", before)  # older than the set-up, as after a copy
    assert clone.set_up() and packages(clone.venv) == "1 11 1" and "a few minutes" in clone.said[0]
    assert not clone.set_up() and not clone.made


def test_another_python_is_taken_only_if_it_is_named(clone, monkeypatch):
    "After `make PYTHON=python3.12 setup` a plain `make test` uses what is there: no complaint, and none made anew."
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 2))
    assert not clone.set_up()
    (clone.root / "constraints.txt").write_text(TESTED + "# changed\n", encoding="utf-8")
    assert clone.set_up() and not clone.made and len(clone.asked) == 1
    with pytest.raises(setup_env.SetupError, match="found 3.9"):
        setup_env.check_python((3, 9, 2))
    monkeypatch.setattr(setup_env, "make_venv", lambda venv: clone.made.append(venv))
    monkeypatch.setattr(setup_env.sys, "version_info", (sys.version_info[0], 99, 0))
    assert clone.set_up(exact=True) and clone.made == [clone.venv]


# set-up that was interrupted


def test_broken_off_in_pip_it_is_not_finished(clone, monkeypatch):
    (clone.root / "constraints.txt").write_text(TESTED + "# changed\n", encoding="utf-8")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(setup_env, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            clone.set_up()
    (clone.root / "constraints.txt").write_text(TESTED, encoding="utf-8")  # even back at what was finished before
    assert clone.set_up() and not clone.set_up() and not clone.made


DAMAGE = {
    "a file is missing": lambda c: (c.site / "one_more.py").unlink(),
    "a file is cut off": lambda c: (c.site / "one_more.py").write_text("x", encoding="utf-8"),
    "no list of files": lambda c: (c.info / "RECORD").unlink(),  # killed while pip unpacked: the list comes last
    "no list, no files": lambda c: ((c.info / "RECORD").unlink(), (c.site / "one_more.py").unlink()),
    "no description": lambda c: [(c.info / name).unlink() for name in ("METADATA", "RECORD")],
    "an empty description": lambda c: shutil.rmtree(c.info) or c.info.mkdir(),
    "no dist-info": lambda c: shutil.rmtree(c.info),
    "put aside": lambda c: (c.info.rename(c.site / "~ne-1.0.dist-info"), (c.site / "one.py").rename(c.site / "~ne.py")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_package_that_is_not_all_there_is_installed_again(clone, damage):
    DAMAGE[damage](clone)
    (clone.venv / ".installed").unlink()
    assert clone.set_up() and packages(clone.venv) == "1 11 2" and not clone.made
    assert not setup_env.damaged(clone.venv) and not list(clone.site.glob("~*"))
    told = "one-1.0 " in "".join(clone.said)
    assert told == (damage not in ("no dist-info", "put aside"))  # then pip sees it by itself


def test_without_repair_pip_would_not_mend_it(clone):
    "What the repair is for: pip takes a package whose files are missing for installed."
    (clone.site / "one_more.py").unlink()
    setup_env.pip_install(clone.root, clone.venv)
    assert "No module named 'one_more'" in packages(clone.venv)
    (clone.venv / ".installed").unlink()


UNUSABLE = {
    "no pip": lambda c: shutil.move(c.site / "pip", c.root / "aside"),
    "half of pip": lambda c: (c.site / "pip" / "_internal" / "cache.py").unlink(),  # `pip --version` still works
    "pip not registered": lambda c: shutil.rmtree(next(c.site.glob("pip-*.dist-info"))),
    "no settings": lambda c: (c.venv / "pyvenv.cfg").unlink(),
    "no Python": lambda c: (c.venv / "bin" / "python").unlink(),
    "a Python that is gone": lambda c: (
        (c.venv / "bin" / "python").unlink(),
        (c.venv / "bin" / "python").symlink_to("/nowhere/python3"),
    ),
}


@pytest.mark.parametrize("damage", UNUSABLE)
def test_half_an_environment_is_made_anew(clone, damage):
    UNUSABLE[damage](clone)
    if damage not in ("no settings", "no Python", "a Python that is gone"):  # these are seen in spite of a stamp
        (clone.venv / ".installed").unlink()
    assert clone.set_up() and clone.made == [clone.venv] and packages(clone.venv) == "1 11 2"
    shutil.rmtree(clone.root / "aside", ignore_errors=True)


def test_a_clone_that_was_moved_gets_a_new_environment(clone, tmp_path, monkeypatch):
    "Its Python would run, but its commands name the Python of the old place. Here the environment is really made."
    moved = tmp_path / "moved"
    shutil.copytree(clone.root, moved, symlinks=True)
    assert setup_env.usable(clone.venv) and not setup_env.usable(moved / ".venv")
    monkeypatch.undo()
    prepare(monkeypatch, moved)
    assert setup_env.set_up(moved, say=str)
    assert setup_env.usable(moved / ".venv") and packages(moved / ".venv") == "1 11 2"


def test_ctrl_c_in_a_real_process_leaves_pip_time_and_goes_on(tmp_path):
    "A made-up Python whose `venv` takes long; make would send the signal to both."
    clone = copy_of_tools(tmp_path)
    python = tmp_path / "slow"
    python.write_text(
        '#!/bin/sh\nsleep 60 &\ntrap "kill $!; touch cleaned; exit 1" INT\nmkdir -p .venv/bin\nwait\n', encoding="utf-8"
    )
    python.chmod(0o755)
    code = (
        f"import runpy, sys; sys.executable = {str(python)!r}; sys.argv = ['setup_env.py']\n"
        "runpy.run_path('tools/setup_env.py', run_name='__main__')"
    )
    how = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    how["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    process = subprocess.Popen([sys.executable, "-c", code], cwd=clone, **how)
    until = time.monotonic() + 60
    while not (clone / ".venv" / "bin").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; the same command goes on" in err and "Traceback" not in err
    assert (clone / "cleaned").is_file()
    assert not setup_env.usable(clone / ".venv")  # so the next call makes it anew


# a Python that cannot


def copy_of_tools(folder):
    (folder / "tools").mkdir()
    for name in ("tools/setup_env.py", *setup_env.FILES):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_a_python_that_is_too_old_or_lacks_venv():
    old = r"needs Python 3\.11 or later, found 3\.9; run: make PYTHON=python3\.11"
    with pytest.raises(setup_env.SetupError, match=old):
        setup_env.check_python((3, 9, 2))
    for lacking in ("venv", "ensurepip"):

        def find(name, lacking=lacking):
            return None if name == lacking else name

        with pytest.raises(setup_env.SetupError, match=rf"without {lacking}, .*: apt install python3\.12-venv$"):
            setup_env.check_python((3, 12, 1), find, apt=True)
        with pytest.raises(setup_env.SetupError, match="your system's packages, or name a complete Python"):
            setup_env.check_python((3, 12, 1), find, apt=False)
    setup_env.check_python((3, 11, 0), lambda name: name)


def test_the_script_is_in_the_syntax_of_an_old_python():
    import ast

    ast.parse((ROOT / "tools" / "setup_env.py").read_text(encoding="utf-8"), feature_version=(3, 8))


def test_nothing_is_left_where_an_environment_cannot_be_made(tmp_path, monkeypatch):
    copy_of_tools(tmp_path)
    (tmp_path / "fails").write_text("#!/bin/sh\nmkdir -p .venv/bin\nexit 1\n", encoding="utf-8")
    (tmp_path / "fails").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(setup_env.sys, "executable", str(tmp_path / "fails"))
    with pytest.raises(setup_env.SetupError, match="failed"):
        setup_env.set_up(tmp_path, say=str)
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("goal", ["setup", "demo"])
def test_make_says_it_in_one_line(tmp_path, goal):
    "The Makefile with a Python whose ensurepip cannot be found, below a folder with a space in its name."
    clone = tmp_path / "a clone"
    clone.mkdir()
    shutil.copy(ROOT / "Makefile", copy_of_tools(clone) / "Makefile")
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'ensurepip' else find(name, *rest)\n",
        encoding="utf-8",
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "MAKEFLAGS": ""}
    python = getattr(sys, "_base_executable", sys.executable)
    ran = subprocess.run(["make", goal, f"PYTHON={python}"], cwd=clone, env=env, capture_output=True, text=True)
    lines = [line for line in (ran.stdout + ran.stderr).splitlines() if not line.startswith("make")]
    assert ran.returncode == 2 and len(lines) == 1 and "comes without ensurepip" in lines[0], ran.stdout + ran.stderr
    assert not (clone / ".venv").exists()

"""Set-up looks at contents, mends what an interrupted one has left, and says in one line what a Python lacks. No network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "tools").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the tools are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))

import setup_env  # noqa: E402


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory):
    "An environment with pip, made once; each test gets a copy of the clone around it."
    root = tmp_path_factory.mktemp("with a space") / "clone"
    root.mkdir()
    for name in setup_env.FILES:
        shutil.copy(ROOT / name, root / name)
    setup_env.make_venv(root / ".venv")
    return root


@pytest.fixture
def clone(empty_venv, monkeypatch):
    "The clone, and what pip was asked for; pip itself is not run."
    asked = []
    monkeypatch.setattr(setup_env, "pip_install", lambda root, venv, *what: asked.append(what))
    (empty_venv / ".venv" / ".installed").unlink(missing_ok=True)
    for name in setup_env.FILES:
        shutil.copy(ROOT / name, empty_venv / name)
    return empty_venv, asked


EDITABLE = ("--editable", ".[dev]")


def site(root):
    return next((root / ".venv").glob("lib/python*/site-packages"))


def test_done_once_and_then_by_contents_not_by_times(clone):
    root, asked = clone
    assert setup_env.set_up(root, say=str) and asked == [EDITABLE]
    for name in setup_env.FILES:
        os.utime(root / name)
    assert not setup_env.set_up(root, say=str) and asked == [EDITABLE]
    old = (root / "constraints.txt").stat()
    (root / "constraints.txt").write_text((root / "constraints.txt").read_text() + "# another\n")
    os.utime(root / "constraints.txt", (old.st_atime - 1000, old.st_mtime - 1000))  # older than the set-up, as after a copy
    assert setup_env.set_up(root, say=str) and asked == [EDITABLE] * 2
    assert not setup_env.set_up(root, say=str)


def test_broken_off_before_the_end_it_is_not_finished(clone, monkeypatch):
    root, asked = clone
    assert setup_env.set_up(root, say=str)
    (root / "setup.py").write_text((root / "setup.py").read_text() + "\n")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "pip_install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup_env.set_up(root, say=str)
    assert not (root / ".venv" / ".installed").exists()
    monkeypatch.setattr(setup_env, "pip_install", lambda root, venv, *what: asked.append(what))
    assert setup_env.set_up(root, say=str) and asked == [EDITABLE] * 2


@pytest.mark.parametrize("damage", ["no pip", "no settings", "another Python", "moved here", "no environment"])
def test_an_environment_that_cannot_be_used_is_made_anew(clone, damage, monkeypatch):
    root, asked = clone
    venv, made = root / ".venv", []
    kept = {name: (venv / name).read_bytes() for name in ("pyvenv.cfg", "bin/pip")}
    if damage == "no pip":
        shutil.move(site(root) / "pip", root / "pip-aside")
    elif damage == "no settings":
        (venv / "pyvenv.cfg").unlink()
    elif damage == "another Python":
        (venv / "pyvenv.cfg").write_text(kept["pyvenv.cfg"].decode().replace("version = 3.", "version = 2."))
    elif damage == "moved here":
        (venv / "bin" / "pip").write_bytes(kept["bin/pip"].replace(str(venv).encode(), b"/elsewhere/.venv"))
    else:
        shutil.move(venv, root / "venv-aside")
    assert not setup_env.usable(venv)

    def mend(path):
        made.append(path)
        if (root / "pip-aside").exists():
            shutil.move(root / "pip-aside", site(root) / "pip")
        if (root / "venv-aside").exists():
            shutil.move(root / "venv-aside", venv)
        for name, data in kept.items():
            (venv / name).write_bytes(data)

    monkeypatch.setattr(setup_env, "make_venv", mend)
    assert setup_env.set_up(root, say=str) and made == [venv] and asked == [EDITABLE] and setup_env.usable(venv)


def test_a_package_without_its_files_is_installed_again(clone):
    root, asked = clone
    folder = site(root)
    (folder / "half").mkdir()
    (folder / "half" / "there.py").write_text("")
    info = folder / "half-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1.0\n")
    (info / "RECORD").write_text("half/there.py,,\nhalf/lost.py,,\nhalf/__pycache__/there.cpython-311.pyc,,\n")
    (folder / "~alf").mkdir()
    told = []
    try:
        assert setup_env.broken_packages(root / ".venv") == ["half==1.0"]
        assert setup_env.set_up(root, say=told.append)
        assert asked == [("--force-reinstall", "--no-deps", "half==1.0"), EDITABLE] and "half==1.0" in told[-1]
        assert not (folder / "~alf").exists()
        (folder / "half" / "lost.py").write_text("")
        assert setup_env.broken_packages(root / ".venv") == []
        (info / "RECORD").unlink()
        assert setup_env.broken_packages(root / ".venv") == ["half==1.0"]
    finally:
        shutil.rmtree(folder / "half")
        shutil.rmtree(info)


def test_a_python_that_is_too_old_or_lacks_venv():
    with pytest.raises(setup_env.SetupError, match=r"needs Python 3\.11 or later, found 3\.9; run: make PYTHON=python3\.11"):
        setup_env.check_python((3, 9, 2))
    for lacking in ("venv", "ensurepip"):
        with pytest.raises(setup_env.SetupError, match=rf"without {lacking}, .*run: apt install python3\.12-venv"):
            setup_env.check_python((3, 12, 1), lambda name, lacking=lacking: None if name == lacking else name, "linux")
    with pytest.raises(setup_env.SetupError, match=r"python\.org"):
        setup_env.check_python((3, 12, 1), lambda name: None, "darwin")
    setup_env.check_python((3, 11, 0), lambda name: name)


def test_nothing_is_left_where_an_environment_cannot_be_made(tmp_path, monkeypatch):
    for name in setup_env.FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "false").write_text("#!/bin/sh\nmkdir -p .venv/bin\nexit 1\n")
    (tmp_path / "false").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(setup_env.sys, "executable", str(tmp_path / "false"))
    with pytest.raises(setup_env.SetupError, match="failed"):
        setup_env.set_up(tmp_path, say=str)
    assert not (tmp_path / ".venv").exists()


def test_the_script_says_it_in_one_line(tmp_path):
    "As a process, under a Python whose ensurepip cannot be found."
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup_env.py", tmp_path / "tools")
    for name in setup_env.FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    probe = (
        "import importlib.util, runpy\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'ensurepip' else find(name, *rest)\n"
        "runpy.run_path('tools/setup_env.py', run_name='__main__')\n"
    )
    ran = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True)
    lines = ran.stderr.strip().splitlines()
    assert ran.returncode == 1 and len(lines) == 1 and "ensurepip" in lines[0] and "Traceback" not in ran.stderr
    assert not (tmp_path / ".venv").exists()

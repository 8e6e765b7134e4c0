"""What is installed elsewhere is the whole package: its modules, and the weights it ships."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "setup.py").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("what a wheel is built from is not beside the tests", allow_module_level=True)


def test_wheel_works_outside_the_checkout(tmp_path):
    stale = ROOT / "build" / "lib" / "sevlm" / "removed_module.py"  # of an earlier build
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.write_text("", encoding="utf-8")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path,
        ROOT,
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("sevlm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    site = tmp_path / "site" / "sevlm"
    modules = {p.relative_to(ROOT / "sevlm") for p in (ROOT / "sevlm").rglob("*.py")}
    assert {p.relative_to(site) for p in site.rglob("*.py")} == modules and (site / "py.typed").is_file()
    held = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert held == {"sevlm", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}  # no tests, no notebooks
    code = "import sevlm, sevlm.utils as c; print(sevlm.__file__); print(c.asset('mini/model.safetensors'))"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert all(line.startswith(str(tmp_path)) for line in out[:2])

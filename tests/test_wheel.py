"""What is installed elsewhere is the whole package: its modules, and the weights it ships."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_works_outside_the_checkout(tmp_path):
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
    modules = {p.name for p in (ROOT / "sevlm").glob("*.py")}
    assert modules == {p.name for p in (tmp_path / "site" / "sevlm").glob("*.py")}
    code = "import sevlm, sevlm.core as c; print(sevlm.__file__); print(c.asset('mini/model.safetensors'))"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert all(line.startswith(str(tmp_path)) for line in out[:2])

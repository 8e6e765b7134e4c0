"""Running pages and the demo changes no file that is under version control, and leaves no new one beside them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "nbs").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests", allow_module_level=True)


def git(folder, *words):
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    "The checkout as it is now, new files included, in a repository of its own: others may be at work in the first one."
    names = git(ROOT, "ls-files", "-co", "--exclude-standard", "-z")
    if names.returncode:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    folder = tmp_path_factory.mktemp("clone")
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    assert git(folder, "add", "--all").returncode == 0
    return folder


def run(clone, cache, *command, **env):
    "A command in the clone, with the clone's package; returns what `git status` then says otherwise than before."
    before = git(clone, "status", "--porcelain").stdout
    env = {**os.environ, "SEVLM_FIGURES": "", "SEVLM_CACHE": str(cache), "PYTHONPATH": str(clone), **env}
    ran = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return sorted(set(git(clone, "status", "--porcelain").stdout.splitlines()) - set(before.splitlines()))


@pytest.mark.parametrize("page", ["course/07_fusion", "synthetic/paint", "analysis/a2_ablations"])
def test_a_page_that_draws_changes_nothing(clone, page, tmp_path):
    text = (clone / "nbs" / f"{page}.ipynb").read_text(encoding="utf-8")
    assert "save_figure(" in text or "figures_folder()" in text
    page_runs = [Path(sys.executable).parent / "nbdev_test", "--path", f"nbs/{page}.ipynb"]
    assert run(clone, tmp_path / "cache", *page_runs) == []
    assert list((tmp_path / "cache" / "figures").glob("*.[pj]*g"))  # it did draw, PNG or JPEG
    if page == "course/07_fusion":
        drawn = run(clone, tmp_path / "cache", *page_runs, SEVLM_FIGURES=str(clone / "drawn"))
        assert drawn == ["?? drawn/"]  # so a change is seen


def test_the_demo_changes_nothing(clone, tmp_path):
    demo = [sys.executable, "-m", "sevlm", "demo", "--paintings", "60", "--epochs", "1", "--quiet"]
    assert run(clone, tmp_path / "cache", *demo) == []
    assert (clone / "runs" / "demo" / "demo_explanations.png").is_file() and (clone / "data").is_dir()


def test_no_page_names_the_folder_of_pictures_to_write_there():
    "Only `figures_folder` knows where pictures go; reading the committed ones is fine."
    writing = ("save_figure(", "savefig(", "write_atomic(", ".save(")
    for page in (ROOT / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" in page.parts:
            continue
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and "../figures" in source:
                assert not any(word in source for word in writing), f"{page.name}: {source}"

"""Export the notebooks in a copy of the repository (tools/export.py), and report every file that would change.

The working tree is left alone, so the check says the same with and without uncommitted edits.
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKED = ("nbs", "sevlm")


def files_of(folder: Path) -> set[str]:
    "Notebooks and modules below `folder`, by their relative names."
    return {
        p.relative_to(folder).as_posix()
        for part in CHECKED
        for kind in ("*.ipynb", "*.py")
        for p in (folder / part).rglob(kind)
        if ".ipynb_checkpoints" not in p.parts
    }


def left_out(folder: str, names: list[str]) -> set[str]:
    "What is not copied: caches, and at the top also what set-up and runs have made (`sevlm/data` is a package)."
    top = {".git", ".venv", "build", "data", "runs"} if Path(folder) == ROOT else set()
    return (top | {"__pycache__", ".ipynb_checkpoints", ".mypy_cache", ".ruff_cache"}) & set(names)


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(ROOT, copy, ignore=left_out)
        subprocess.run([sys.executable, "tools/export.py"], cwd=copy, check=True)
        found, expected = files_of(ROOT), files_of(copy)
        differ = sorted(found ^ expected) + sorted(
            n for n in found & expected if not filecmp.cmp(ROOT / n, copy / n, shallow=False)
        )
    for name in differ:
        print(f"{name}: differs from what its notebook exports; run `make export` and commit the result")
    print(f"{len(found)} notebooks and modules checked, {len(differ)} differ")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())

"""Clean and export the notebooks in a copy of the repository, and report every file that would change.

The working tree is left alone, so the check says the same with and without uncommitted edits.
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent  # not resolved: a virtual environment's python may be a link out of it
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


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(".git", ".venv", "data", "runs", "__pycache__", ".ipynb_checkpoints"),
        )
        for command in ("nbdev_clean", "nbdev_export"):
            subprocess.run([BIN / command], cwd=copy, check=True)
        found, expected = files_of(ROOT), files_of(copy)
        differ = sorted(found ^ expected) + sorted(
            n for n in found & expected if not filecmp.cmp(ROOT / n, copy / n, shallow=False)
        )
    for name in differ:
        print(f"{name}: differs after nbdev_clean and nbdev_export; run both and commit the result")
    print(f"{len(found)} notebooks and modules checked, {len(differ)} differ")
    return int(bool(differ))


if __name__ == "__main__":
    sys.exit(main())

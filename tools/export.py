"""Export the notebooks: clean them, write the modules in sevlm/, and put these into the one style.

nbdev writes each module from the cells marked `#| export`; ruff then sorts its imports and formats it, so that a reader
finds the same style in notebooks and modules. Run it in the root of the repository (`make export`).
"""

import subprocess
import sys
import textwrap
from pathlib import Path

WIDTH = 120  # of a line, as in pyproject.toml
BIN = Path(sys.executable).parent  # not resolved: a virtual environment's python may be a link out of it
STEPS = (
    ("nbdev_clean",),
    ("nbdev_export",),
    ("ruff", "check", "--quiet", "--select", "I", "--fix", "sevlm"),
    ("ruff", "format", "--quiet", "sevlm"),
)


def wrap_docstring(text: str) -> str:
    "A module whose first line, the promise of its page, is no longer than a line may be."
    first, _, rest = text.partition("\n")
    if len(first) <= WIDTH or not first.startswith('"""'):
        return text
    lines = textwrap.wrap(first, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, rest])


def main() -> int:
    for command, *words in STEPS:
        done = subprocess.run([BIN / command, *words])
        if done.returncode:
            print(f"{command} failed ({done.returncode}); the modules may be half exported. Mend it and export again.")
            return done.returncode
        if command == "nbdev_export":
            for module in Path("sevlm").rglob("*.py"):
                module.write_text(wrap_docstring(module.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

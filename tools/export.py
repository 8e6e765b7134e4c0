"""Export the notebooks: clean them, write the modules in sevlm/, and put these into the one style.

nbdev writes each module from the cells marked `#| export`; ruff then sorts its imports and formats it, so that a reader
finds the same style in notebooks and modules. Run it in the root of the repository (`make export`).
"""

import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent  # not resolved: a virtual environment's python may be a link out of it
STEPS = (
    ("nbdev_clean",),
    ("nbdev_export",),
    ("ruff", "check", "--quiet", "--select", "I", "--fix", "sevlm"),
    ("ruff", "format", "--quiet", "sevlm"),
)


def main() -> int:
    for command, *words in STEPS:
        done = subprocess.run([BIN / command, *words])
        if done.returncode:
            print(f"{command} failed ({done.returncode}); the modules may be half exported. Mend it and export again.")
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())

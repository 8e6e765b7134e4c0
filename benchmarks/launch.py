"""Seconds and peak memory of a command, measured from outside.

A new process begins with the peak memory of the one that starts it, so the command is started by a small program: this
file, run as `launch.py RESULT COMMAND ...`. It needs nothing but Python, and writes what it has measured into RESULT.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; the unit of ru_maxrss is not the same everywhere


def run_measured(
    command: list,  # program and arguments
    codes: tuple = (0,),  # exit codes of success
) -> tuple[float, int]:  # wall seconds; peak memory of the command or of one of its processes, in bytes
    "Run a command to its end; what it prints is not shown. Raises `SystemExit` with its errors if it fails."
    command = list(map(str, command))
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        launch = [sys.executable, __file__, str(result), *command]
        ran = subprocess.run(launch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        if ran.returncode not in codes:
            raise SystemExit(f"{' '.join(command)} failed with exit code {ran.returncode}:\n{ran.stderr[-3000:]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    return found["seconds"], found["bytes"]


def main(result, *command):
    began = time.perf_counter()
    code = subprocess.run(command).returncode
    found = dict(
        seconds=time.perf_counter() - began, bytes=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT
    )
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])

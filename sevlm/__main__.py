"""The command `sevlm`, or `python -m sevlm`, as a process of its own."""

import atexit
import os
import sys

from .cli import main


def run() -> None:
    "Runs the command and leaves at once: unloading PyTorch's libraries would take half a second and 130 MB more."
    code = main()
    if "torch" not in sys.modules:
        sys.exit(code)
    atexit._run_exitfuncs()  # what Python itself does at its end
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()

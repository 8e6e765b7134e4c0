"""The command `sevlm`, or `python -m sevlm`, as a process of its own."""

import atexit
import os
import sys
import traceback
from contextlib import suppress

ISSUES = "https://github.com/sevlm/sevlm/issues"
INTERRUPTED, DEFECT = 130, 70  # exit codes, besides those of `main`


def _open_streams() -> None:
    """A stream that is closed (`>&-`) leads nowhere, so that no file of ours takes its number; a letter that the
    terminal's encoding lacks is written as its code."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest number that is free
        os.set_inheritable(number, True)
    os.close(number)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def run() -> None:
    "Runs the command and leaves at once: unloading PyTorch's libraries would take half a second and 130 MB more."
    try:
        _open_streams()
        from .cli import main

        code = main()
    except KeyboardInterrupt:  # before the command began
        code = INTERRUPTED
    except Exception:
        traceback.print_exc()
        print(
            "sevlm: this is a defect of sevlm and no mistake of yours. Please report the lines above, with the "
            f"command, at {ISSUES}",
            file=sys.stderr,
        )
        code = DEFECT
    if "torch" not in sys.modules:
        sys.exit(code)
    atexit._run_exitfuncs()  # what Python itself does at its end
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()

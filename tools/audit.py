"""Are there known faults in the versions that this project is tested with?

    python tools/audit.py                   # all that a clone is set up with
    python tools/audit.py pillow==13.0.0    # these

pip-audit asks the package index for the advisories of each version. It runs in an environment of its own, and installs
nothing. A version of which the index says nothing counts as not audited, never as free of faults: a mirror may serve
packages without their advisories.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import ROOT, ReleaseError, find_uv, pins_of, uv

SHOWN = 5  # names in a message


def ask(pins: list[str]) -> dict:  # pip-audit's report
    "The advisories of some versions `name==version`. Raises `ReleaseError` if pip-audit cannot ask at all."
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("\n".join([*pins, ""]), encoding="utf-8")
        words = ["--requirement", str(file), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        command = [find_uv(), "tool", "run", "--quiet", "--constraints", "constraints.txt", "pip-audit", *words]
        done = subprocess.run([*command, "--format", "json"], cwd=ROOT, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ReleaseError(f"not made, pip-audit ended with exit code {done.returncode}: {last}") from None


def judge(report: dict) -> tuple[list[str], list[str], int]:  # faults, versions not audited, versions audited
    "What a report says."
    known = [entry for entry in report["dependencies"] if "skip_reason" not in entry]
    skipped = [
        f"{entry['name']} ({entry['skip_reason']})" for entry in report["dependencies"] if "skip_reason" in entry
    ]
    faults = []
    for entry in known:
        for fault in entry["vulns"]:
            mended = ", ".join(fault["fix_versions"]) or "no version yet"
            faults.append(f"{entry['name']} {entry['version']}: {fault['id']}, mended in {mended}")
    return faults, skipped, len(known)


def tested_pins() -> list[str]:
    "What `make setup` installs: the requirements at the versions of constraints.txt, and all that they bring."
    words = ["--quiet", "--extra", "dev", "--constraint", "constraints.txt", "setup.py"]
    found = pins_of(uv("pip", "compile", *words, capture=True).splitlines())
    return [f"{name}=={version}" for name, version in found.items()]


def main(pins: list[str]) -> int:  # exit code: 0 none known, 1 faults, 2 not all versions were audited
    faults, skipped, audited = judge(ask(pins or tested_pins()))
    for fault in faults:
        print(fault)
    print(f"audit: {audited} versions audited, {len(faults)} known faults in them")
    if skipped:
        more = f" and {len(skipped) - SHOWN} others" * (len(skipped) > SHOWN)
        print(
            f"audit: {len(skipped)} versions could not be audited: {', '.join(skipped[:SHOWN])}{more}", file=sys.stderr
        )
        print(
            "audit: the index here serves no advisories for them; the workflow `release` asks the public one.",
            file=sys.stderr,
        )
    return 1 if faults else 2 if skipped else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ReleaseError as error:
        print(f"audit: {error}", file=sys.stderr)
        sys.exit(2)

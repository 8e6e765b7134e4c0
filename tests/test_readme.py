"""Every block of the README that a reader can paste runs, in order, in a folder that holds the figures alone."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sevlm

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
if not README.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the README is not beside the tests", allow_module_level=True)

BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    "What each block printed, all in one session: one namespace for Python, one folder for both."
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "figures", folder / "figures")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": programs, "PYTHONPATH": str(Path(sevlm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    script = ["import contextlib, io, json, subprocess, sys", "names, said = {}, []"]
    for kind, text in BLOCKS:
        if kind == "python":
            script.append(f"out = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    exec({text!r}, names)")
            script.append("said.append(out.getvalue())")
        else:
            script.append(f"ran = subprocess.run(['bash', '-ec', {text!r}], capture_output=True, text=True)")
            script.append("assert ran.returncode == 0, ran.stdout + ran.stderr\nsaid.append(ran.stdout)")
    script.append("print('SAID' + json.dumps(said))")
    ran = subprocess.run([sys.executable, "-c", "\n".join(script)], cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.split("SAID")[-1])


def test_the_five_snippets_are_there():
    text = "\n".join(block for _, block in BLOCKS)
    for word in ("sevlm.load()", "sevlm train", "with_lexicon", "attention=True", "answer.tokens", "sevlm evaluate"):
        assert word in text, word


def test_every_block_runs(said):
    assert len(said) == len(BLOCKS) and all(out.strip() for out in said)
    first = next(out for (kind, text), out in zip(BLOCKS, said) if "sevlm.load()" in text)
    assert " because " in first.splitlines()[0]
    evaluated = next(out for (kind, text), out in zip(BLOCKS, said) if "sevlm evaluate" in text)
    assert "emotion accuracy (strict)" in evaluated


def test_the_first_command():
    "One line, from the root of the checkout."
    line = "import sevlm; print(sevlm.load()('figures/example.jpg'))"
    ran = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"[a-z ]+ because .+\n", ran.stdout)


def test_readme_states_the_speed_on_file():
    "The training step of `make bench`, its date and its machine."
    bench = json.loads((ROOT / "nbs" / "data" / "bench_cpu.json").read_text(encoding="utf-8"))
    ways = bench["parts"]["epoch"]["ways"]  # of batches of 32, as four of 8
    kept, plain = (ways[way]["seconds_a_batch"] / 4 for way in ("ours, cached", "plain"))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"takes {kept:.1f} s instead of {plain:.1f} s" in text and f"({plain / kept:.1f} x; " in text
    machine = bench["machine"]
    assert f"{machine['cpu']} with AVX-512, {machine['threads']} threads, {machine['date'][:10]}" in text


def table_below(text, heading):
    "The cells of the first table after a heading: first cell of a row -> its others."
    lines = text.split(f"\n## {heading}\n")[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return {first: others for first, *others in ([c.strip() for c in row.strip("|").split("|")] for row in rows)}


def test_docs_state_the_speed_on_file():
    "The tables of docs/speed.md against the published way, on threads and on the explorer, with their dates."
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    bench, threads = (
        json.loads((ROOT / "nbs" / "data" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("bench_cpu", "threads")
    )
    parts, expected = bench["parts"], []
    seconds = {way: x["seconds_a_batch"] / 4 for way, x in parts["epoch"]["ways"].items()}  # of 32, as four of 8
    for way, what in (("ours, cached", "patch tokens kept"), ("ours", "without them")):
        ratios = [x["ratio"][way]["median"] for x in parts["step"]["corrected"]]
        lengths = f"over an epoch; {min(ratios):.1f} to {max(ratios):.1f} x by length of the texts"
        plain = seconds["plain"]
        expected.append(
            (f"a training step of 8 paintings, {what} ({lengths})", plain, seconds[way], plain / seconds[way])
        )
    for mode, paintings, what in (
        ("corrected", 8, "generating 25 tokens for 8 paintings"),
        ("corrected", 32, "generating 25 tokens for 32 paintings"),
        ("published", 8, "the same for 8 in the published mode, where less may be kept"),
    ):
        (found,) = (x["without_encoder"] for x in parts["writing"][mode] if x["paintings"] == paintings)
        medians = [found["seconds"][way]["median"] for way in ("plain", "ours")]
        expected.append((what, *medians, found["ratio"]["ours"]["median"]))
    wanted = {what: [f"{a:.2f} s", f"{b:.2f} s", f"{x:.1f} x"] for what, a, b, x in expected}
    assert table_below(text, "Against the published way") == wanted
    names = dict(explain="explain one picture", train="a training step")
    wanted = {
        f"{names[task]}, {company}": [f"{x['before']:.3f} s", f"{x['after']:.3f} s", f"{x['faster']:.1f} x"]
        for (task, company), x in ((key.split(", "), x) for key, x in threads["summary"].items())
    }
    assert table_below(text, "Threads") == wanted
    answers = json.loads((ROOT / "nbs" / "data" / "explorer_times.json").read_text(encoding="utf-8"))
    wanted = [
        [f"{times[company]:.2f}" for company in ("quiet", "busy")] for times in answers["browser, complete"].values()
    ]
    assert sorted(table_below(text, "The explorer").values()) == sorted(wanted)
    assert f"Measured on **{bench['machine']['date'][:10]}** on an {bench['machine']['cpu']}" in text
    assert f"Measured on {threads['machine']['date'][:10]} (PyTorch {threads['machine']['torch'].split('+')[0]}" in text


def test_readme_links_and_commands_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for goal in re.findall(r"\bmake ([a-z]+)", text):
        assert re.search(rf"^{goal}:", makefile, re.M), goal

"""Which conditions a machine can offer, what a log says failed, and what the table makes of it; pages leave the tree as it was."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "tools").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the tools are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))

import portable  # noqa: E402

LOG = """== 2/3 notebooks run
Starting /a/nbs/02_vad.ipynb
- Completed /a/nbs/02_vad.ipynb
nbdev Tests Failed On The Following Notebooks:
==================================================
\t12c_text_emotion.ipynb
\tanalysis/a5_ledger.ipynb

make: *** [Makefile:32: notebooks] Error 1
.....F.. [100%]
FAILED tests/test_cli.py::test_patch_tokens[a b] - AssertionError: assert 1 == 2
ERROR tests/test_model.py::test_forward
1 failed, 1 error, 7 passed in 3.2s
"""


def conditions(flags, threads=2):
    return {c.letter: c for c in portable.conditions(set(flags.split()), threads)}


def test_flags_are_read():
    assert portable.cpu_flags("model name\t: X\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor: 1\nflags: no\n") == {"fpu", "avx2", "amx_bf16"}
    assert portable.cpu_flags("Features : asimd\n") == set()


def test_conditions_of_some_machines():
    amx, zen, old, arm = conditions("sse4_1 avx2 avx512_bf16 amx_bf16"), conditions("sse4_1 avx2 avx512_bf16"), conditions("sse4_1", 1), conditions("")
    assert [c.letter for c in amx.values() if c.missing] == [c.letter for c in zen.values() if c.missing] == []
    assert amx["e"].env == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"} and "AMX" in amx["e"].what
    assert zen["e"].env == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
    assert {c.letter: bool(c.missing) for c in old.values()} == dict(a=False, b=True, c=False, d=True, e=True)
    assert all(arm[k].missing for k in "bce") and not arm["a"].missing and not arm["d"].missing
    assert amx["a"].env == {} and amx["d"].env == {"OMP_NUM_THREADS": "2"}


def test_failures_of_a_log():
    found = ["12c_text_emotion.ipynb", "analysis/a5_ledger.ipynb", "tests/test_cli.py::test_patch_tokens[a b]", "tests/test_model.py::test_forward"]
    assert portable.failures(LOG) == found
    assert portable.failures("- Completed x\n7 passed in 1s\n") == []


def test_the_table_names_where_it_fails_and_where_it_runs():
    names = dict(a="as it is", b="AVX2")
    assert portable.table(dict(a=[], b=[]), names) == ["no page and no test failed under (a) as it is, (b) AVX2"]
    lines = portable.table(dict(a=["x"], b=["x", "y"]), names)
    assert lines == ["x: fails under a, b", "y: fails under b; runs under a"]


def test_finished_conditions_are_kept_while_the_files_are_the_same(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(portable, "FOLDER", tmp_path)
    monkeypatch.setattr(portable, "run", lambda condition, variables: ran.append(condition.letter) or dict(failed=["t"] if condition.letter == "d" else [], seconds=1))
    monkeypatch.setattr(portable, "conditions", lambda flags, threads: [portable.Condition("a", "as it is"), portable.Condition("b", "x", {}, "no x"), portable.Condition("d", "two")])
    monkeypatch.setattr(portable, "tree", lambda: "one")
    assert portable.main([]) == 1 and ran == ["a", "d"] and "(b) x: left out, no x" in capsys.readouterr().out
    assert portable.main(["--only", "a"]) == 0 and portable.main([]) == 1 and ran == ["a", "d"]
    assert portable.main(["--fresh", "--only", "a"]) == 0 and ran == ["a", "d", "a"]
    monkeypatch.setattr(portable, "tree", lambda: "another")
    assert portable.main(["--only", "d"]) == 1 and ran == ["a", "d", "a", "d"]
    assert portable.main(["--only", "d", "--tests", "tests/test_vad.py"]) == 1 and ran[-2:] == ["d", "d"]


def status():
    ran = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    return ran.stdout


@pytest.mark.parametrize("page", ["07_fusion", "03a_paint"])
def test_a_page_that_draws_changes_no_tracked_file(page, tmp_path, monkeypatch):
    monkeypatch.delenv("SEVLM_FIGURES", raising=False)
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path / "cache"))
    before = status()
    test = [Path(sys.executable).parent / "nbdev_test", "--path", f"nbs/{page}.ipynb"]
    subprocess.run(test, cwd=ROOT, check=True, capture_output=True)
    assert status() == before
    assert list((tmp_path / "cache" / "figures").glob("*.png"))  # it did draw
    monkeypatch.setenv("SEVLM_FIGURES", str(tmp_path / "asked"))
    subprocess.run(test, cwd=ROOT, check=True, capture_output=True)
    assert list((tmp_path / "asked").glob("*.png")) and status() == before

"""Which conditions a machine can offer, what a log says failed, how far it is, and what the table makes of it."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "tools").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the tools are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))

import portable  # noqa: E402

LOG = """== 2/3 notebooks run
Starting /a/nbs/course/01_lexicon.ipynb
- Completed /a/nbs/course/01_lexicon.ipynb
nbdev Tests Failed On The Following Notebooks:
==================================================
\tstudies/text_emotion.ipynb
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
    text = "model name\t: X\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor: 1\nflags: no\n"
    assert portable.cpu_flags(text) == {"fpu", "avx2", "amx_bf16"}
    assert portable.cpu_flags("Features : asimd\n") == set()


def test_conditions_of_some_machines():
    amx, zen = conditions("sse4_1 avx2 avx512_bf16 amx_bf16"), conditions("sse4_1 avx2 avx512_bf16")
    old, arm = conditions("sse4_1", 1), conditions("")
    assert [c.letter for c in amx.values() if c.missing] == []
    assert [c.letter for c in zen.values() if c.missing] == ["f"]
    assert amx["e"].env == zen["e"].env == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
    assert amx["f"].env == {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    assert {c.letter: bool(c.missing) for c in old.values()} == dict(a=False, b=True, c=False, d=True, e=True, f=True)
    assert all(arm[k].missing for k in "bcef") and not arm["a"].missing and not arm["d"].missing
    assert amx["a"].env == {} and amx["d"].env == {"OMP_NUM_THREADS": "2"}
    assert {name for c in amx.values() for name in c.env} <= set(portable.DECIDE)


def test_failures_of_a_log():
    pages = ["analysis/a5_ledger.ipynb", "studies/text_emotion.ipynb"]
    found = [*pages, "tests/test_cli.py::test_patch_tokens[a b]", "tests/test_model.py::test_forward"]
    assert portable.failures(LOG) == found
    assert portable.failures("- Completed x\n7 passed in 1s\n") == []


def test_progress_is_counted_and_readable():
    seen, done = [], 0
    one = "- Completed /a/nbs/course/01_lexicon.ipynb"
    two = "- Completed /a b/nbs/course/01_lexicon.ipynb- Completed /a b/nbs/analysis/a1.ipynb"
    for line in LOG.replace(one, two).splitlines(keepends=True):
        shown, done = portable.progress(line, done, 64)
        seen += shown
    pages = ["page 1 of 64: course/01_lexicon.ipynb", "page 2 of 64: analysis/a1.ipynb"]
    assert seen == ["== 2/3 notebooks run", *pages, "tests: 100%", "1 failed, 1 error, 7 passed in 3.2s"]
    assert portable.progress("x = 3 passed\n", 2, 64) == ([], 2)


def test_pages_are_found_by_name():
    beside = [f"course/{folder}01_lexicon.ipynb" for folder in ("", "play/", "solutions/")]
    assert portable.pages_of("01_lexicon*") == portable.pages_of("course/01*") == beside
    assert portable.pages_of("solutions/01*") == [] and portable.pages_of("course/solutions/01*") == beside[2:]
    assert portable.pages_of("library/config.ipynb") == ["library/config.ipynb"]
    assert portable.pages_of("library/01*") == portable.pages_of("lunch/*") == []
    assert "analysis/a5_ledger.ipynb" in portable.pages_of("")
    assert portable.pages_of("nothing*") == []
    with pytest.raises(SystemExit):
        portable.main(["--pages", "nothing*"])
    with pytest.raises(SystemExit):
        portable.main(["--only", "a,z"])


def test_the_table_names_where_it_fails_and_where_it_runs():
    names, missing = dict(a="as it is", b="AVX2", c="SSE"), dict(c="no SSE")
    fine = portable.table(dict(a=[], b=[]), names, missing)
    assert fine == ["(c) SSE: left out, no SSE", "no page and no test failed under (a) as it is, (b) AVX2"]
    lines = portable.table(dict(a=["x"], b=["x", "yy"]), names, missing)
    assert lines[:4] == ["(c) SSE: left out, no SSE", "(a) as it is: 1 failed", "(b) AVX2: 2 failed", ""]
    assert lines[4:] == ["     a     b  ", "x   FAIL  FAIL", "yy   ok   FAIL  differs from (a)"]
    assert portable.table({}, names, missing)[-1] == "nothing was run"


def test_a_condition_runs_the_makefiles_goals_in_its_own_environment(tmp_path, monkeypatch, capsys):
    "With a made-up Makefile: what the caller has set does not count, the failure is found, its log is kept."
    (tmp_path / "Makefile").write_text(
        "notebooks:\n"
        "\t@echo '- Completed /a/nbs/course/01_lexicon.ipynb'\n"
        "\t@echo isa=$$ONEDNN_MAX_CPU_ISA mkl=$$MKL_CBWR threads=$(THREADS) pages=$(PAGES)\n"
        "pytest:\n\t@echo 'FAILED tests/test_x.py::test_y - no'; exit 1\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(portable, "ROOT", tmp_path)
    monkeypatch.setattr(portable, "FOLDER", tmp_path)
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    condition = portable.Condition("c", "x", {"ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "2"})
    done = portable.run(condition, 7, ["PAGES=02*"])
    log = (tmp_path / "c.log").read_text(encoding="utf-8")
    assert (
        done["failed"] == ["tests/test_x.py::test_y"]
        and "page 1 of 7: course/01_lexicon.ipynb" in capsys.readouterr().out
    )
    assert "isa=SSE41 mkl= threads=2 pages=02*" in log
    page = "nbdev Tests Failed On The Following Notebooks:\\n=\\n\\tcourse/06.ipynb\\n"
    killed = f"notebooks:\n\t@printf '{page}'; exit 1\npytest:\n\t@kill -ILL $$$$\n"
    (tmp_path / "Makefile").write_text(killed, encoding="utf-8")
    done = portable.run(portable.Condition("c", "x"), 7, [])
    assert done["failed"] == ["course/06.ipynb", "pytest (see c.log)"]
    (tmp_path / "Makefile").write_text("notebooks pytest:\n\t@exit 3\n", encoding="utf-8")
    done = portable.run(portable.Condition("c", "x"), 7, [])
    assert done["failed"] == ["notebooks (see c.log)", "pytest (see c.log)"]


def test_finished_conditions_are_kept_while_the_files_are_the_same(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(portable, "FOLDER", tmp_path)

    def run(condition, pages, variables):
        ran.append(condition.letter)
        return dict(failed=["t"] if condition.letter == "d" else [], seconds=1)

    three = [("a", "as it is"), ("b", "x", {}, "no x"), ("d", "two")]
    monkeypatch.setattr(portable, "run", run)
    monkeypatch.setattr(portable, "conditions", lambda flags, threads: [portable.Condition(*words) for words in three])
    monkeypatch.setattr(portable, "tree", lambda: "one")
    assert portable.main([]) == 1 and ran == ["a", "d"] and "(b) x: left out, no x" in capsys.readouterr().out
    assert portable.main(["--only", "a"]) == 0 and portable.main([]) == 1 and ran == ["a", "d"]
    assert portable.main(["--fresh", "--only", "a"]) == 0 and ran == ["a", "d", "a"]
    monkeypatch.setattr(portable, "tree", lambda: "another")
    assert portable.main(["--only", "d"]) == 1 and ran == ["a", "d", "a", "d"]
    assert portable.main(["--only", "d", "--tests", "tests/test_vad.py"]) == 1 and ran[-2:] == ["d", "d"]

"""What docs/security.md says of the code is so, and the tests it names are there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import sevlm

PACKAGE = Path(sevlm.__file__).parent
PAGE = Path(__file__).resolve().parents[1] / "docs" / "security.md"
if not PAGE.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("docs/security.md is not beside the tests", allow_module_level=True)
TEXT = PAGE.read_text(encoding="utf-8")

RUNS_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "runpy.run_module"}
UNPICKLES = {"pickle.load", "pickle.loads", "joblib.load", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle"}
READS_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
STARTS_PROGRAMS = {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output", "os.spawnv"}


def calls():
    "(module, called name, keywords with constant values) of every call in the package."
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
                yield path.relative_to(PACKAGE).as_posix(), ast.unparse(node.func), keywords


def test_nothing_is_executed():
    for module, name, keywords in calls():
        assert name not in RUNS_CODE | UNPICKLES, f"{module} calls {name}"
        assert not keywords.get("shell") and not keywords.get("trust_remote_code"), f"{module}: {name} {keywords}"
        if name in READS_WITH:
            keyword, value = READS_WITH[name]
            assert keywords.get(keyword) is value, f"{module}: {name} without {keyword}={value}"


def test_the_check_sees_what_it_looks_for():
    names = {name for _, name, _ in calls()}
    assert {*READS_WITH, "subprocess.Popen"} <= names


def test_one_module_starts_programs():
    assert {module for module, name, _ in calls() if name in STARTS_PROGRAMS} == {"metrics/captions.py"}
    assert {module for module, name, _ in calls() if name.startswith("webbrowser.")} == {"app/serve.py"}


def test_limits_are_those_of_the_code():
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| `(sevlm[\w.]+)\.(\w+)` \|$", TEXT, re.M)
    assert len(rows) >= 7
    for number, module, name in rows:
        assert getattr(importlib.import_module(module), name) == int(number.replace(",", "")), name


def test_the_tests_that_are_named_exist():
    named = set(re.findall(r"`tests/(test_\w+)\.py::(\w+)`", TEXT))
    assert len(named) > 15
    for file, test in named:
        text = (Path(__file__).parent / f"{file}.py").read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", text, re.M), f"{file}::{test}"


def test_the_code_that_is_named_exists():
    for full in set(re.findall(r"`(sevlm\.[\w.]+)`", TEXT)):
        module, _, name = full.rpartition(".")
        try:
            importlib.import_module(full)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), full

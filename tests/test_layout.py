"""The order of the house, read from the syntax tree of sevlm/*.py and from the notebooks; nothing is imported."""

import ast
import json
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGE, NOTEBOOKS = REPO / "sevlm", REPO / "nbs"
if not NOTEBOOKS.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests: layout cannot be checked here", allow_module_level=True)

EXPECTED_MODULES = (
    "core device inert plot lexfile vad lookup lexicons text motifs paint words artemis utterances protocol combined records intake prepare data mini source hub vision features clip "
    "decoder fusion vad_head contrast model release processes learner callbacks budget classifier decoding generate captions novelty text_emotion image_emotion metrics scores evaluate compare corpus train ablate "
    "explorer command workbench commands cli"
).split()
PARTS = {"vision", "decoder", "fusion", "vad_head", "contrast"}  # they do not know each other
TOP = [
    "evaluate",
    "compare",
    "corpus",
    "train",
    "ablate",
    "explorer",
    "workbench",
    "commands",
    "cli",
]  # each may import all below it
MAY_IMPORT = {  # module -> what it may import; no way back
    "core": set(),
    "device": {"core"},
    "inert": {"core"},
    "plot": {"core"},
    "lexfile": {"core"},
    "vad": {"core", "lexfile"},
    "lookup": {"core", "vad"},
    "lexicons": {"core", "lexfile", "vad", "lookup"},
    "text": {"core", "vad"},
    "motifs": {"core"},
    "paint": {"core", "motifs"},
    "words": {"core", "paint"},
    "artemis": {"core"},
    "utterances": {"core"},
    "protocol": {"core", "artemis", "utterances"},
    "combined": {"core", "artemis", "protocol"},
    "records": {"core", "inert", "artemis", "protocol"},
    "intake": {"core", "artemis", "utterances"},
    "prepare": {
        "core",
        "lexfile",
        "vad",
        "lexicons",
        "artemis",
        "utterances",
        "protocol",
        "combined",
        "records",
        "intake",
    },
    "data": {"core", "text", "vad", "artemis"},
    "mini": {"core", "paint", "words"},
    "source": {"core", "artemis", "records", "intake", "mini"},
    "hub": {"core"},
    **{part: {"core", "hub"} for part in PARTS},
    "model": {"core", "hub"} | PARTS,
    "release": {"core", "hub", "decoder", "vision", "text", "model"},
    "clip": {"core", "device", "text", "vision"},
    "features": {"core", "device", "hub", "vision"},
    "processes": {"core", "device"},
    "learner": {"core", "plot", "processes"},
    "callbacks": {"core", "plot", "processes", "learner"},
    "budget": {"core", "device", "text", "data", "model"},
    "classifier": {"core", "device"},
    "decoding": {"core", "text", "lookup", "decoder"},
    "generate": {"core", "text", "lookup", "decoding"},
    "command": {"core"},
    "captions": {"core"},
    "novelty": {"core", "words"},
    "text_emotion": {"core", "device", "inert", "hub", "artemis", "protocol", "classifier"},
    "image_emotion": {"core", "device", "hub", "artemis", "vision", "classifier"},
    "metrics": {"core", "text", "artemis", "captions", "novelty"},
    "scores": {"core", "artemis", "captions", "metrics", "mini", "novelty", "words"},
    **{name: set(EXPECTED_MODULES) - set(TOP[i:]) for i, name in enumerate(TOP)},
}
NOTEBOOK_BYTES = 500_000
FORBIDDEN = {"nbdev", "fastcore", "execnb"}  # tools of the writers, not of the users
LAZY = {"pycocoevalcap", "lemminflect", "nltk", "symspellpy", "sklearn", "matplotlib", "seaborn"}
ABSOLUTE = re.compile(r"""(?<![\w.~/:-])/(?:home|Users|root|work|tmp)(?=[/\s'"\\,;)]|$)""", re.M)
ADDRESS = re.compile(r"<[\w.]+ object at 0x|\bat 0x[0-9a-f]{6,}")

MODULES = {p.stem: p for p in sorted(PACKAGE.glob("*.py")) if not p.stem.startswith("_")}
PAGES = {
    str(p.relative_to(NOTEBOOKS)): p for p in sorted(NOTEBOOKS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts
}
each_module = pytest.mark.parametrize("name", MODULES)
each_page = pytest.mark.parametrize("page", PAGES)


def tree(name):
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def cells(page):
    return json.loads(PAGES[page].read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def output_text(cell):
    out = []
    for o in cell.get("outputs", []):
        out.append("".join(o.get("text", [])))
        out += ["".join(v) for k, v in o.get("data", {}).items() if k.startswith("text/") or k == "image/svg+xml"]
    return "\n".join(out)


def imports(name):
    "(sevlm modules, other top packages) that a module imports anywhere, also inside functions."
    own, others = set(), set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            for a in node.names:
                top, *rest = a.name.split(".")
                if top == "sevlm":
                    own.update(rest[:1] or ["sevlm"])
                else:
                    others.add(top)
        elif isinstance(node, ast.ImportFrom):
            path = (node.module or "").split(".")
            if node.level == 0 and path[0] != "sevlm":
                others.add(path[0])
            else:
                path = path[1:] if node.level == 0 else [p for p in path if p]
                own.update(path[:1] or [a.name for a in node.names if not a.name.startswith("__")])
    return own, others


def test_list_of_modules_is_complete():
    missing, extra = set(EXPECTED_MODULES) - set(MODULES), set(MODULES) - set(EXPECTED_MODULES)
    assert not missing and not extra, f"missing {sorted(missing)}, not in the table {sorted(extra)}"


def test_table_itself_has_no_cycle():
    assert set(MAY_IMPORT) == set(EXPECTED_MODULES)
    done = set()
    while ready := {m for m, may in MAY_IMPORT.items() if m not in done and may <= done}:
        done |= ready
    assert done == set(MAY_IMPORT)


def test_the_patterns_find_what_they_should():
    for bad in ("open('/home/me/x')", 'Path("/tmp")', "in /root/run", '"/work/main"', "cd /Users/a"):
        assert ABSOLUTE.search(bad), bad
    for good in ("https://host.org/work/x", "../tmp/x", "and/or work/home", "/homes/x", "~/tmp"):
        assert not ABSOLUTE.search(good), good
    for bad in ("<torch.Generator object at 0x7f3b>", "Encoder at 0x7f1234abcd"):
        assert ADDRESS.search(bad), bad


@each_module
def test_imports_go_one_way(name):
    own, others = imports(name)
    assert name in MAY_IMPORT, f"{name} is not in the table of modules"
    assert own <= MAY_IMPORT[name], (
        f"{name} imports {sorted(own - MAY_IMPORT[name])}, allowed: {sorted(MAY_IMPORT[name])}"
    )
    assert not others & FORBIDDEN, f"{name} imports {sorted(others & FORBIDDEN)}"


def test_no_import_cycles():
    todo = {m: imports(m)[0] & set(MODULES) for m in MODULES}
    while free := [m for m, needs in todo.items() if not needs & set(todo)]:
        for m in free:
            del todo[m]
    assert not todo, f"these modules import each other: {todo}"


@each_module
def test_no_work_at_import_time(name):
    "At the top of a module: imports, definitions, constants; no loops, no `with`, no bare calls."
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
    )
    for node in tree(name).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        main = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        assert isinstance(node, allowed) or docstring or main, f"{name}, line {node.lineno}: {ast.unparse(node)[:80]}"


@each_module
def test_heavy_optional_libraries_are_imported_where_needed(name):
    top = {
        (a.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in tree(name).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for a in node.names
    }
    lazy = LAZY - {"matplotlib", "seaborn"} if name == "plot" else LAZY
    assert not top & lazy, (
        f"{name} imports {sorted(top & lazy)} at its top; import it inside the function that needs it"
    )


@each_module
def test_no_bare_except_and_no_bool_options(name):
    for node in ast.walk(tree(name)):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), (
            f"{name}, line {node.lineno}: bare except"
        )
        if isinstance(node, ast.keyword) and node.arg == "type" and isinstance(node.value, ast.Name):
            assert node.value.id != "bool", f"{name}, line {node.value.lineno}: type=bool is true for any text"


@each_module
def test_module_has_its_notebook(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert "AUTOGENERATED! DO NOT EDIT!" in text, f"{name}.py was not generated"
    pages = set(re.findall(r"^# %% \.\./nbs/(\S+\.ipynb)", text, re.M))
    assert pages, f"{name}.py names no notebook"
    assert pages <= set(PAGES), f"{name}.py comes from {sorted(pages - set(PAGES))}, which is not there"


@each_module
def test_module_has_no_absolute_path(name):
    found = ABSOLUTE.search(text := MODULES[name].read_text(encoding="utf-8"))
    assert not found, f"{name}.py: {text[max(0, found.start() - 40) : found.end() + 40]!r}"


@each_page
def test_page_opens_and_closes_as_agreed(page):
    all_cells = cells(page)
    first = next(c for c in all_cells if c["cell_type"] == "markdown")
    assert first in all_cells[:2], f"{page}: the title is not among the first two cells"
    lines = source(first).splitlines()
    assert lines[0].startswith("# "), f'{page} starts with {lines[0]!r}, expected "# Title"'
    promise = next((line for line in lines[1:] if line.strip()), "")
    assert promise.startswith("> "), f'{page}: after the title comes {promise!r}, expected "> promise"'
    assert "\\" not in promise and "$" not in promise, f"{page}: the promise becomes a docstring; no formula in it"
    code = [source(c) for c in all_cells if c["cell_type"] == "code"]
    if any(re.search(r"^#\|\s*exporti?\b", c, re.M) for c in code):
        assert re.match(r"#\|\s*default_exp \w", code[0]), f'{page}: the first code cell is not "#| default_exp"'
        last = code[-1]
        assert re.match(r"#\|\s*hide", last) and "nbdev_export()" in last, (
            f"{page}: the last cell is not the hidden export"
        )


@each_page
def test_page_is_clean(page):
    assert PAGES[page].stat().st_size < NOTEBOOK_BYTES, f"{page}: {PAGES[page].stat().st_size} bytes"
    raw = json.loads(PAGES[page].read_text(encoding="utf-8"))
    ids = [c.get("id") for c in raw["cells"]]
    assert all(ids) and len(set(ids)) == len(ids), f"{page}: cell ids missing or double"
    for c in raw["cells"]:
        text = output_text(c)
        assert not [o for o in c.get("outputs", []) if o["output_type"] == "error"], (
            f"{page}, cell {c['id']}: stored error"
        )
        assert c.get("execution_count") is None, f"{page}, cell {c['id']}: not cleaned"
        assert not (found := ADDRESS.search(text)), (
            f"{page}, cell {c['id']}: object address: {text[found.start() : found.end() + 30]!r}"
        )
        for what, where in (("source", source(c)), ("output", text)):
            found = ABSOLUTE.search(where)
            assert not found, (
                f"{page}, cell {c['id']}, {what}: {where[max(0, found.start() - 40) : found.end() + 40]!r}"
            )


@each_page
def test_import_cells_are_pure(page):
    "nbdev executes every cell with an import when it makes the documentation: nothing else may stand in it."
    for c in cells(page):
        if c["cell_type"] != "code" or re.match(r"#\|\s*hide", source(c)):
            continue
        if any(line.startswith(("%", "!")) for line in source(c).splitlines()):
            continue  # not plain Python
        body = ast.parse(source(c)).body
        kinds = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        assert all(kinds) or not any(kinds), f"{page}, cell {c['id']}: imports mixed with other code"


@each_page
def test_sevlm_is_imported_before_torch(page):
    "`import sevlm` says how OpenMP's threads wait, and has to come first: PyTorch reads it once."
    heavy = re.compile(r"^\s*(?:from|import) (?:torch|torchvision|transformers|open_clip|safetensors\.torch)\b")
    lines = [line for c in cells(page) if c["cell_type"] == "code" for line in source(c).splitlines()]
    first = next((n for n, line in enumerate(lines) if heavy.match(line)), None)
    own = next((n for n, line in enumerate(lines) if re.match(r"(?:from|import) sevlm\b", line)), None)
    assert first is None or (own is not None and own < first), f"{page}: imports {lines[first]!r} before sevlm"

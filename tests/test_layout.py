"""The order of the house, read from the syntax tree of sevlm/*.py and from the notebooks; nothing is imported."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGE, NOTEBOOKS = REPO / "sevlm", REPO / "nbs"
if not NOTEBOOKS.exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the notebooks are not beside the tests: layout cannot be checked here", allow_module_level=True)

NOTEBOOK_BYTES = 500_000
FORBIDDEN = {"nbdev", "fastcore", "execnb"}  # tools of the writers, not of the users
LAZY = {"pycocoevalcap", "lemminflect", "nltk", "symspellpy", "sklearn", "matplotlib", "seaborn"}
ABSOLUTE = re.compile(r"""(?<![\w.~/:-])/(?:home|Users|root|work|tmp)(?=[/\s'"\\,;)]|$)""", re.M)
ADDRESS = re.compile(r"<[\w.]+ object at 0x|\bat 0x[0-9a-f]{6,}")

MODULES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p
    for p in sorted(PACKAGE.rglob("*.py"))
    if not p.stem.startswith("_")
}
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
    package = ["sevlm", *name.split(".")[:-1]]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            for a in node.names:
                (own if a.name.split(".")[0] == "sevlm" else others).add(a.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            path = ".".join([*base, *([node.module] if node.module else [])])
            (own if path.split(".")[0] == "sevlm" else others).update([path, *(f"{path}.{a.name}" for a in node.names)])
    return {m.removeprefix("sevlm.") for m in own} & set(MODULES), {m.split(".")[0] for m in others}


def exported(name):
    "The names a module exports."
    return next(
        ([e.value for e in node.value.elts] for node in tree(name).body if ast.unparse(node).startswith("__all__")), []
    )


def test_contracts_are_kept_and_name_every_module():
    "The contracts of import-linter (pyproject.toml) hold, and no module lies outside their layers."
    linter = Path(sys.executable).parent / "lint-imports"
    ran = subprocess.run([linter, "--no-logo", "--no-cache"], cwd=REPO, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    assert {name.split(".")[0] for name in MODULES} == {layer.removeprefix("sevlm.") for layer in layers}


def test_one_exported_name_lives_in_one_module():
    homes, page_of_course = {}, re.compile(r"course\.(checks|play)_\d\d")
    for module in MODULES:
        for name in exported(module):
            if page_of_course.fullmatch(module) and not name.startswith(("check_", "play_")):
                continue  # of a single page, and asked for by nobody else
            homes.setdefault(name, []).append(module)
    assert not {name: where for name, where in homes.items() if len(where) > 1}


@each_module
def test_writers_tools_are_not_imported(name):
    _, others = imports(name)
    assert not others & FORBIDDEN, f"{name} imports {sorted(others & FORBIDDEN)}"


def test_the_patterns_find_what_they_should():
    for bad in ("open('/home/me/x')", 'Path("/tmp")', "in /root/run", '"/work/main"', "cd /Users/a"):
        assert ABSOLUTE.search(bad), bad
    for good in ("https://host.org/work/x", "../tmp/x", "and/or work/home", "/homes/x", "~/tmp"):
        assert not ABSOLUTE.search(good), good
    for bad in ("<torch.Generator object at 0x7f3b>", "Encoder at 0x7f1234abcd"):
        assert ADDRESS.search(bad), bad


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
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert isinstance(node, allowed) or docstring or types, f"{name}, line {node.lineno}: {ast.unparse(node)[:80]}"


@each_module
def test_heavy_optional_libraries_are_imported_where_needed(name):
    top = {
        (a.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in tree(name).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for a in node.names
    }
    lazy = LAZY - {"matplotlib", "seaborn"} if name == "plot" or name.startswith("course.") else LAZY
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
    pages = set(re.findall(r"^# %% (?:\.\./)+nbs/(\S+\.ipynb)", text, re.M))
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
    assert not any("nbdev_export" in c for c in code), f"{page}: exports; `make export` does that"


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
        kinds = [
            isinstance(node, (ast.Import, ast.ImportFrom)) or ast.unparse(node).startswith("if TYPE_CHECKING:")
            for node in body
        ]
        assert all(kinds) or not any(kinds), f"{page}, cell {c['id']}: imports mixed with other code"


@each_page
def test_sevlm_is_imported_before_torch(page):
    "`import sevlm` says how OpenMP's threads wait, and has to come first: PyTorch reads it once."
    heavy = re.compile(r"^\s*(?:from|import) (?:torch|torchvision|transformers|open_clip|safetensors\.torch)\b")
    lines = [line for c in cells(page) if c["cell_type"] == "code" for line in source(c).splitlines()]
    first = next((n for n, line in enumerate(lines) if heavy.match(line)), None)
    own = next((n for n, line in enumerate(lines) if re.match(r"(?:from|import) sevlm\b", line)), None)
    assert first is None or (own is not None and own < first), f"{page}: imports {lines[first]!r} before sevlm"


COURSE = sorted(page for page in PAGES if re.fullmatch(r"course/\w+\.ipynb", page))
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)")  # of Markdown, to a file of the repository
FACT = re.compile(r"docs/facts/(\w+\.md)(?:#([\w-]+)| (\d+(?:\.\d+)?))?")


def texts_of(page):
    return [source(c) for c in cells(page) if c["cell_type"] == "markdown"]


def test_course_is_numbered_without_gaps():
    assert [page.removeprefix("course/")[:3] for page in COURSE] == [f"{n:02d}_" for n in range(16)]


def test_readme_and_next_lines_follow_the_order_of_the_files():
    "The order of the files, of the README's road, and of each page's last line are one list."
    readme = re.findall(r"\(nbs/(course/\w+\.ipynb)\)", (REPO / "README.md").read_text(encoding="utf-8"))
    assert list(dict.fromkeys(readme)) == COURSE
    for page, following in zip(COURSE, COURSE[1:]):
        last = texts_of(page)[-1].rstrip().splitlines()[-1]
        found = re.match(r"\*\*Next:\*\* \[\w+\]\((\w+\.ipynb)\)", last)
        assert found and f"course/{found[1]}" == following, (
            f"{page} ends with {last!r}, expected the link to {following}"
        )


@pytest.mark.parametrize("file", [*PAGES.values(), *REPO.glob("*.md"), *REPO.glob("docs/**/*.md")], ids=str)
def test_links_lead_somewhere(file):
    if file.suffix == ".ipynb":
        text = "\n".join(texts_of(file.relative_to(NOTEBOOKS).as_posix()))
    else:
        text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.S)
    dangling = [target for target in LINK.findall(text) if not (file.parent / target).exists()]
    assert not dangling, f"{file.name}: nothing at {dangling}"


def slugs_of(text):
    "The anchors that GitHub gives to headings."
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_new_names_in_the_changelog_are_those_of_the_code():
    "The tables of renamed functions: what stands in the column of today is defined somewhere."
    changes = (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| function before \| now \|\n\| --- .*\n((?:\|.*\n)+)", changes, re.M)
    now = {
        name for table in tables for row in table.splitlines() for name in re.findall(r"`([\w.=]+)`", row.split("|")[2])
    }
    code = "\n".join(path.read_text(encoding="utf-8") for path in MODULES.values())
    gone = [name for name in now if not re.search(rf"\b(?:def|class) {name.rpartition('.')[2]}\b", code)]
    assert len(now) > 20 and not gone


def test_facts_that_are_cited_exist():
    "A section number or an anchor after docs/facts/... stands on that page."
    pages = {p.name: p.read_text(encoding="utf-8") for p in (REPO / "docs" / "facts").glob("*.md")}
    files = [*MODULES.values(), *(REPO / "tests").glob("*.py"), *(REPO / "benchmarks").glob("*.py")]
    files.remove(REPO / "tests" / "test_site.py")  # it makes a little repository, with facts of its own
    texts = {name: "\n".join(map(source, cells(name))) for name in PAGES}
    texts |= {str(f.relative_to(REPO)): f.read_text(encoding="utf-8") for f in files}
    wrong = []
    for where, text in texts.items():
        for page, anchor, section in FACT.findall(text):
            there = page in pages
            if there and anchor:
                there = f'id="{anchor}"' in pages[page] or anchor in slugs_of(pages[page])
            if there and section:
                there = re.search(rf"^#+ {re.escape(section)}\b", pages[page], re.M)
            if not there:
                wrong.append(f"{where}: docs/facts/{page} {anchor or section}")
        wrong += [f"{where}: {old}" for old in re.findall(r"(?<!docs/)\bfacts/(?:data|method)\b[^\n]{0,20}", text)]
    assert not wrong, "\n".join(wrong)

"""The API reference of the site: what the modules offer, read from their source; nothing is imported or run.

A public name is one in a module's `__all__`. What is said of it comes from where it is written: the docstring, the
annotations, and the comments beside arguments, fields and results ("docments").
"""

import ast
import html
import io
import re
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CELL = re.compile(r"^# %% (?:\.\./)+nbs/(\S+)\.ipynb #(\w+)", re.M)  # nbdev's mark: page and id of the exporting cell
LONGEST_VALUE = 12  # lines of a constant that are shown
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Argument(NamedTuple):
    "An argument, a field or the result of something."

    name: str  # "returns" for the result
    type: str  # as it is written; "" if it is not
    default: str
    comment: str


class Entry(NamedTuple):
    "A public name."

    name: str  # without that of its module; `Fusion.forward` for a method
    kind: str  # directive of Sphinx's Python domain: function, class, data, method, property
    options: tuple[str, ...]  # of the directive
    signature: str  # with its brackets; "" for data
    about: str  # the docstring, or the comment of a constant
    arguments: tuple[Argument, ...]
    line: int
    cell: tuple[str, str] | None  # page and id of the notebook cell that defines it
    value: str  # of a constant, as it is written
    bases: str  # of a class
    members: tuple["Entry", ...]


class Module(NamedTuple):
    "A module with its public names."

    name: str  # sevlm.models.fusion
    path: str  # sevlm/models/fusion.py
    about: str
    page: str | None  # course/07_fusion: the notebook that makes it
    entries: tuple[Entry, ...]


class Source:
    "A module's text, its tree and its comments by line."

    def __init__(self, text: str):
        self.lines, self.tree = text.splitlines(keepends=True), ast.parse(text)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self.comments = {t.start[0]: t.string.lstrip("# ").rstrip() for t in tokens if t.type == tokenize.COMMENT}
        self.cells = [(text.count("\n", 0, m.start()) + 1, m.groups()) for m in CELL.finditer(text)]

    def segment(self, node: ast.expr) -> str:
        "An expression as it is written, with its comments. (Columns count bytes.)"
        lines = [line.encode() for line in self.lines[node.lineno - 1 : node.end_lineno]]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode()

    def written(self, node: ast.AST | None) -> str:
        "The source of an expression on one line."
        return "" if node is None else ast.unparse(node)

    def cell_of(self, line: int) -> tuple[str, str] | None:
        "The notebook cell that a line comes from."
        before = [cell for start, cell in self.cells if start < line]
        return before[-1] if before else None


def signature_of(function: Function, bound: bool) -> str:
    "Names and defaults, as one would write the call; the types stand in the table."
    plain = ast.parse(ast.unparse(function)).body[0].args
    if bound:
        plain.args = plain.args[1:]
    for a in [*plain.posonlyargs, *plain.args, *plain.kwonlyargs, plain.vararg, plain.kwarg]:
        if a is not None:
            a.annotation = None
    return f"({ast.unparse(plain)})"


def arguments_of(source: Source, function: Function, bound: bool) -> tuple[Argument, ...]:
    "Arguments and result, each with the comment at the end of its line."
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    defaults = dict(zip([p.arg for p in positional][::-1], a.defaults[::-1]))
    defaults |= {p.arg: d for p, d in zip(a.kwonlyargs, a.kw_defaults) if d is not None}
    listed = [(p.arg, p) for p in positional[1 if bound else 0 :]]
    listed += [(f"*{a.vararg.arg}", a.vararg)] if a.vararg else []
    listed += [(p.arg, p) for p in a.kwonlyargs]
    listed += [(f"**{a.kwarg.arg}", a.kwarg)] if a.kwarg else []
    head = function.returns.end_lineno if function.returns else function.lineno  # its comment is the result's
    found = []
    for name, p in listed:
        default = defaults.get(p.arg)
        last = max(p.end_lineno, default.end_lineno if default else 0)
        said = [source.comments[n] for n in range(p.lineno, last + 1) if n in source.comments and n != head]
        found.append(Argument(name, source.written(p.annotation), source.written(default), " ".join(said)))
    if function.returns is not None and source.written(function.returns) != "None":
        found.append(Argument("returns", source.written(function.returns), "", source.comments.get(head, "")))
    return tuple(found)


def default_of(source: Source, value: ast.expr | None) -> str:
    "The default of a field; what `dataclasses.field` makes is written as its call."
    if not (isinstance(value, ast.Call) and source.written(value.func) == "field"):
        return source.written(value)
    given = {k.arg: k.value for k in value.keywords}
    if "default" in given:
        return source.written(given["default"])
    factory = given.get("default_factory")
    return "..." if factory is None or isinstance(factory, ast.Lambda) else f"{source.written(factory)}()"


def fields_of(source: Source, node: ast.ClassDef) -> tuple[Argument, ...]:
    "Annotated fields of a class, such as those of a dataclass."
    return tuple(
        Argument(
            field.target.id,
            source.written(field.annotation),
            default_of(source, field.value),
            source.comments.get(field.end_lineno, ""),
        )
        for field in node.body
        if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_")
    )


def function_entry(source: Source, node: Function, owner: str = "") -> Entry:
    "A function, or a method of `owner`."
    decorators = [ast.unparse(d) for d in node.decorator_list]
    kind, options = "function", []
    if owner:
        kind = "property" if {"property", "cached_property"} & set(decorators) else "method"
        options = [f":{d}:" for d in ("classmethod", "staticmethod") if d in decorators]
    bound = bool(owner) and ":staticmethod:" not in options
    return Entry(
        f"{owner}.{node.name}" if owner else node.name,
        kind,
        tuple(options),
        "" if kind == "property" else signature_of(node, bound),
        ast.get_docstring(node) or "",
        arguments_of(source, node, bound),
        node.lineno,
        source.cell_of(node.lineno),
        "",
        "",
        (),
    )


def class_entry(source: Source, node: ast.ClassDef) -> Entry:
    "A class with its fields or the arguments of its `__init__`, and its public methods."
    methods = {n.name: n for n in node.body if isinstance(n, Function)}
    fields, init = fields_of(source, node), methods.get("__init__")
    makes_init = [ast.unparse(x) for x in [*node.decorator_list, *node.bases]]
    signature, arguments = "", fields
    if init:
        signature = signature_of(init, bound=True)
        arguments = (*(a for a in arguments_of(source, init, bound=True) if a.name != "returns"), *fields)
    elif any(x.startswith(("dataclass", "NamedTuple")) for x in makes_init):
        signature = f"({', '.join(f.name + (f'={f.default}' if f.default else '') for f in fields)})"
    return Entry(
        node.name,
        "class",
        (),
        signature,
        ast.get_docstring(node) or "",
        arguments,
        node.lineno,
        source.cell_of(node.lineno),
        "",
        ", ".join(map(ast.unparse, node.bases)),
        tuple(
            function_entry(source, m, node.name)
            for name, m in methods.items()
            if not name.startswith("_") or (name == "__call__" and ast.get_docstring(m))
        ),
    )


def data_entry(source: Source, name: str, node: ast.Assign | ast.AnnAssign) -> Entry:
    "A constant: its value as it is written, and the comment behind it."
    value = source.segment(node.value)
    about = source.comments.get(node.end_lineno, "") or source.comments.get(node.lineno, "")
    return Entry(name, "data", (), "", about, (), node.lineno, source.cell_of(node.lineno), value, "", ())


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    "Every name that the top of a module defines, with its statement."
    for node in tree.body:
        if isinstance(node, (Function, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name):
                        yield name.id, node


def read_module(root: Path, path: Path) -> Module | None:
    "A module's public names, in the order of `__all__`; None if it has none of its own."
    source = Source(path.read_text(encoding="utf-8"))
    defined = dict(definitions(source.tree))
    if "__all__" not in defined:
        return None
    entries = []
    for name in ast.literal_eval(defined["__all__"].value):
        node = defined.get(name)
        if isinstance(node, Function):
            entries.append(function_entry(source, node))
        elif isinstance(node, ast.ClassDef):
            entries.append(class_entry(source, node))
        elif node is not None:
            entries.append(data_entry(source, name, node))
    relative = path.relative_to(root)
    page = source.cells[0][1][0] if source.cells else None
    about = ast.get_docstring(source.tree) or ""
    return Module(".".join(relative.with_suffix("").parts), relative.as_posix(), about, page, tuple(entries))


def read_package(root: Path, package: str = "sevlm") -> list[Module]:
    "All modules below `root`/`package` that have public names, by name."
    paths = sorted(p for p in (root / package).rglob("*.py") if not p.name.startswith("_"))
    return [m for m in (read_module(root, p) for p in paths) if m is not None]


class Target(NamedTuple):
    "What a name in prose stands for."

    module: str
    full: str  # with the module; the same as `module` for a module itself


def names_of(modules: Sequence[Module]) -> dict[str, Target]:
    "How prose may name things -> what is meant. A short name that two modules have is left out."
    names: dict[str, Target] = {}
    twice = set()
    for module in modules:
        names[module.name] = Target(module.name, module.name)
        for entry in [e for top in module.entries for e in (top, *top.members)]:
            target = Target(module.name, f"{module.name}.{entry.name}")
            twice |= {entry.name} & set(names)
            names[entry.name] = names[target.full] = target
    return {name: target for name, target in names.items() if name not in twice}


# What is not to be touched (blocks of code and of formulas, headings, links, roles), and code between single backticks.
PROSE = re.compile(
    r"^[ ]*(?P<fence>`{3,}|~{3,}).*?^[ ]*(?P=fence)`*[ \t]*$|\$\$.*?\$\$|^#{1,6} [^\n]*$"
    r"|!?\[(?:[^\[\]]|\[[^\]]*\])*\]\([^)]*\)|\{[\w:]+\}`[^`]*`|``.*?``|`(?P<code>[^`\n]+)`",
    re.M | re.S,
)


def link_names(text: str, names: Mapping[str, Target], own: Collection[str] = ()) -> str:
    "Markdown in which code that is a public name leads to its entry; names that the page itself defines do not."

    def link(match: re.Match) -> str:
        name = (match["code"] or "").removesuffix("()")
        target = names.get(name)
        if target is None or name in own:
            return match[0]
        role = "py:mod" if target.full == target.module else "py:obj"
        return f"{{{role}}}`{match['code']} <{target.full}>`"

    return PROSE.sub(link, text)


def escaped(text: str) -> str:
    "Plain words as Markdown that shows them as they are; what stands between backticks is code in both."
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if i % 2 else re.sub(r"([\\*_$<\[\]])", r"\\\1", p) for i, p in enumerate(parts))


def type_with_links(code: str, names: Mapping[str, Target]) -> str:
    "A type as HTML, with links for the project's own names (the pages of all modules lie in one folder)."

    def link(word: str) -> str:
        target = names.get(word)
        return word if target is None else f'<a href="{target.module}.html#{target.full}">{word}</a>'

    pieces = re.split(r"(\w+)", code)
    done = "".join(link(p) if i % 2 else html.escape(p) for i, p in enumerate(pieces))
    return f'<code class="type">{done}</code>' if code else ""


def in_cell(text: str) -> str:
    "A text for the cell of a Markdown table."
    return text.replace("|", r"\|").replace("\n", " ")


def toctree(names: Iterable[str], *options: str) -> str:
    "A table of contents that shows in the sidebar only."
    return "\n".join(["```{toctree}", ":hidden:", *options, "", *names, "```", ""])


def cell_label(page: str, cell: str) -> str:
    "The label of a notebook cell that defines something."
    return re.sub(r"\W+", "-", f"def-{page}-{cell}").lower().replace("_", "-")


class Reference:
    "Writes the pages of the reference, in MyST Markdown with the directives of Sphinx's Python domain."

    def __init__(
        self,
        modules: Sequence[Module],
        source_url: str,  # what comes before the path of a module
        titles: Mapping[str, str],  # of the pages that notebooks make
        sections: Mapping[tuple[str, str], str],  # page and cell of a notebook -> the heading that it stands below
    ):
        self.modules, self.source_url, self.titles, self.sections = modules, source_url, titles, sections
        self.names = names_of(modules)

    def prose(self, text: str) -> str:
        return link_names(escaped(text), self.names)

    def promise(self, module: Module) -> str:
        return self.prose(" ".join(module.about.split()))

    def table(self, arguments: Sequence[Argument], first: str) -> str:
        "Arguments with type, default and comment."
        rows = [f"| {first} | type | default | what it is |", "| --- | --- | --- | --- |"]
        for a in arguments:
            name = "*returns*" if a.name == "returns" else f"`{a.name}`"
            default = f"`{a.default}`" if a.default else ""
            cells = (name, type_with_links(a.type, self.names), default, self.prose(a.comment))
            rows.append("| " + " | ".join(map(in_cell, cells)) + " |")
        return "\n".join(rows) if arguments else ""

    def where(self, entry: Entry, module: Module) -> str:
        "The notebook section that defines an entry, and its line in the repository."
        places = [f"[source, line {entry.line}]({self.source_url}/{module.path}#L{entry.line})"]
        if entry.cell in self.sections:
            places.insert(0, f"defined in [{self.sections[entry.cell]}](#{cell_label(*entry.cell)})")
        return "{.where}\n" + " · ".join(places)

    def entry(self, entry: Entry, module: Module, fence: str = "`````") -> str:
        "A directive with all that is known of a name; methods lie inside of their class, in a shorter fence."
        member = len(fence) == 4
        value = entry.value.splitlines()
        if len(value) > LONGEST_VALUE:
            value = [*value[: LONGEST_VALUE - 1], "    ..."]
        parts = [
            "\n".join([f"{fence}{{py:{entry.kind}}} {entry.name.split('.')[-1]}{entry.signature}", *entry.options]),
            f"Base: {type_with_links(entry.bases, self.names)}" if entry.bases else "",
            self.prose(entry.about),
            "\n".join(["```python", *value, "```"]) if value else "",
            self.table(entry.arguments, "argument" if entry.signature else "field"),
            "" if member else self.where(entry, module),
            *(self.entry(m, module, "````") for m in entry.members),
            fence,
        ]
        return "\n\n".join(p for p in parts if p)

    def module_page(self, module: Module) -> str:
        title = self.titles.get(module.page or "")
        made = f"made by the page [{title}](/{module.page}.ipynb) · " if title else ""
        head = [
            f"# {module.name}",
            f"> {self.promise(module)}" if module.about else "",
            f"{{.where}}\n{made}[source]({self.source_url}/{module.path})",
            f"```{{py:module}} {module.name}\n```",
        ]
        return "\n\n".join([h for h in head if h] + [self.entry(e, module) for e in module.entries]) + "\n"

    def list_of(self, modules: Sequence[Module]) -> str:
        rows = [f"| {{py:mod}}`{m.name}` | {in_cell(self.promise(m))} |" for m in modules]
        return "\n".join(["| module | what it is about |", "| --- | --- |", *rows, ""])

    def files(self, front: str) -> dict[str, str]:
        "Each page by its name, without ending: the index, which begins with `front`, the packages, the modules."
        groups: dict[str, list[Module]] = {}
        for module in self.modules:
            groups.setdefault(".".join(module.name.split(".")[:2]), []).append(module)
        packages = {name: found for name, found in groups.items() if name != found[0].name}
        ground = [found[0] for name, found in groups.items() if name not in packages]
        index = [front, "## Modules of their own\n", self.list_of(ground)]
        for name, found in packages.items():
            index += [f"## {name}\n", self.list_of(found)]
        pages = {m.name: self.module_page(m) for m in self.modules}
        for name, found in packages.items():
            pages[name] = f"# {name}\n\n{self.list_of(found)}\n{toctree(m.name for m in found)}"
        return {"index": "\n".join([*index, toctree(groups)]), **pages}

"""Notebooks and Markdown files of the repository as pages of the site: their text, links, names and alternatives.

Nothing is executed: a page shows the outputs that its notebook stores. What cannot be shown as it should raises
`SiteError`, which says where: a link that leads nowhere, a picture without an alternative.
"""

import ast
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from PIL import Image
from site_api import Target, cell_label, link_names

CODE = re.compile(r"^[ ]*(?:`{3,}|~{3,}).*?^[ ]*(?:`{3,}|~{3,})[ \t]*$|``.*?``|`[^`\n]*`", re.M | re.S)
LINK = re.compile(
    rf"(?P<code>{CODE.pattern})|(?P<image>!?)\[(?P<words>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<to>[^)\s]+)\)", re.M | re.S
)
EXPLICIT = re.compile(r'^<a id="([\w-]+)"></a>$', re.M)  # an anchor written as HTML, before a heading
TITLE = re.compile(r"\A# (?P<title>.*)\n+(?P<promise>(?:> .*\n?)*)")
DIRECTIVE = re.compile(r"^#\|[ ]*(?P<name>[\w-]+)(?P<value>.*)\n?", re.M)  # a line for nbdev or Quarto
PICTURE_TYPES = ("image/png", "image/jpeg", "image/svg+xml")
WIDE = 700  # pixels; wider pictures scroll inside their box on a phone
LONGEST_BESIDE = 160  # characters of the text beside a figure that its alternative repeats
SAVED = re.compile(r"""save_figure\([^"']*["'](?P<name>[\w-]+)""")  # a cell that stores its figure
DRAWN = {"title", "label", "xlabel", "ylabel"}  # arguments of Matplotlib whose texts can be read in a figure
PART = re.compile(r"^# ", re.M)  # a heading of the first level
PLAY = re.compile(r"^(?:play_\d\d\(\)|.*\bExplorer\(.*\)\.show\(\))$", re.M)  # a cell whose controls need a kernel

HOW_TO_PLAY = (
    ":::{{note}}\nThe controls of this cell need a running notebook: `make lab`, then open `{source}` and run its "
    "cells. A stored picture on this page shows them.\n:::"
)
METADATA = {
    "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


class SiteError(Exception):
    "Something that a page of the site cannot show; the message says where and what to do."


def slug(heading: str) -> str:
    "The anchor of a heading, as GitHub makes it."
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def docname(source: str) -> str | None:
    "The page of the site that a file of the repository becomes; None: it becomes none."
    path = PurePosixPath(source)
    if path.suffix == ".ipynb" and path.parts[0] == "nbs":
        return path.relative_to("nbs").with_suffix("").as_posix()
    if source in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        return {"README.md": "index"}.get(source, path.stem.lower())
    if path.suffix == ".md" and path.parts[0] == "docs":
        return (path.with_name("index") if path.name == "README.md" else path.with_suffix("")).as_posix()
    return None


class Site(NamedTuple):
    "What every page needs to know of the whole."

    root: Path  # of the repository
    pages: Mapping[str, str]  # file of the repository -> page of the site
    names: Mapping[str, Target]  # public names of the library
    alternatives: Mapping[str, str]  # figure that is stored in figures/ -> what the Markdown files say that it shows
    url: str  # of the repository on the web
    branch: str

    def file_of(self, source: str) -> str:
        "The file in the site's source that a page is written to."
        return self.pages[source] + PurePosixPath(source).suffix

    def on_host(self, path: str) -> str:
        "The address of a file or folder of the repository."
        kind = "tree" if (self.root / path).is_dir() else "blob"
        return f"{self.url}/{kind}/{self.branch}/{path}"


def rewritten(text: str, source: str, site: Site) -> str:
    """Markdown whose links lead to pages of the site, or, for other files of the repository, to its host.

    Raises `SiteError` for a link to nothing and for a picture without an alternative."""
    here = PurePosixPath(source).parent

    def change(match: re.Match) -> str:
        if match["code"]:
            return match[0]
        image, words, to = match["image"], match["words"], match["to"]
        if image and not words.strip():
            raise SiteError(f"{source}: the picture {to} has no alternative; say what it shows: ![...]({to})")
        path, _, anchor = to.partition("#")
        anchor = f"#{slug(unquote(anchor).replace('-', ' '))}" if anchor else ""  # Jupyter writes #The-Heading
        if ":" in path:
            return match[0]
        if not path:
            return f"[{words}]({anchor})"
        target = os.path.normpath(here / unquote(path)).replace(os.sep, "/")
        if not (site.root / target).exists():
            raise SiteError(f"{source}: the link {to} leads to nothing: there is no {target}.")
        if image:
            with Image.open(site.root / target) as picture:
                wide = "{.wide}" if picture.width > WIDE else ""
            return f"![{words}](/{target}){wide}"
        if target in site.pages:
            return f"[{words}](/{site.file_of(target)}{anchor})"
        return f"[{words}]({site.on_host(target)})"

    return EXPLICIT.sub(r"(\1)=", LINK.sub(change, text))


def markdown_page(source: str, site: Site) -> str:
    "A Markdown file as a page."
    text = (site.root / source).read_text(encoding="utf-8")
    return link_names(rewritten(text, source, site), site.names)


class Notebook:
    "A notebook, and where its cells stand."

    def __init__(self, source: str, root: Path):
        self.source, self.page = source, docname(source)
        self.cells = json.loads((root / source).read_text(encoding="utf-8"))["cells"]
        for c in self.cells:
            c["source"] = "".join(c["source"])
        first = next((c["source"] for c in self.cells if c["cell_type"] == "markdown"), "")
        opening = TITLE.match(first)
        if opening is None:
            raise SiteError(f'{source} does not begin with "# Title".')
        number = re.match(r"course/(\d\d)_", self.page)
        self.title = f"{number[1]} {opening['title']}" if number else opening["title"]
        self.promise = " ".join(line.removeprefix("> ") for line in opening["promise"].splitlines())

    def headings(self) -> Iterator[tuple[str, str]]:
        "Each cell's id and the last heading before it, or in it."
        heading = self.title
        for c in self.cells:
            if c["cell_type"] == "markdown":
                found = re.findall(r"^##+ (.*)$", CODE.sub("", c["source"]), re.M)
                heading = found[-1] if found else heading
            yield c["id"], heading

    def library_names(self, names: Mapping[str, Target]) -> dict[str, Target]:
        "Names in the code of this page that are the library's: those that its cells import or export."
        code = "\n".join(c["source"] for c in self.cells if c["cell_type"] == "code")
        blocks = re.findall(r"^[ ]*from sevlm[\w.]* import (\([^)]*\)|[^\n#]*)", code, re.M)
        known = {w for block in blocks for w in re.findall(r"\w+", re.sub(r"#[^\n]*", "", block))}
        for c in self.cells:
            if exported(c["source"]):
                known |= set(re.findall(r"^(?:def |class )(\w+)", c["source"], re.M))
        return {w: names[w] for w in known & set(names)}

    def own_names(self) -> set[str]:
        "Names that cells which are not exported define: they are not those of the library."
        own: set[str] = set()
        for c in self.cells:
            if c["cell_type"] == "code" and not exported(c["source"]):
                own |= set(re.findall(r"^(?:def |class )?(\w+)(?= = |\()", c["source"], re.M))
        return own


def directives(code: str) -> dict[str, str]:
    "The lines of a cell that speak to nbdev or Quarto."
    return {m["name"]: m["value"].strip(" :\"'") for m in DIRECTIVE.finditer(code)}


def exported(code: str) -> bool:
    return bool({"export", "exporti"} & set(directives(code)))


def drawn_words(code: str) -> list[str]:
    "Titles and labels that a cell writes into its figure."
    try:
        tree = ast.parse(code)
    except SyntaxError:  # a cell with magic commands
        return []
    given = [k.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg in DRAWN]
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    given += [a for n in calls if re.fullmatch(r"set_(?:[xy]label|title)|suptitle", n.func.attr) for a in n.args[:1]]
    texts = [g.value for g in given if isinstance(g, ast.Constant) and isinstance(g.value, str) and g.value.strip()]
    return list(dict.fromkeys(texts))


def plain(markdown: str) -> str:
    "A paragraph of prose without its marks; empty for a heading, a table, a picture, code or a formula."
    if re.match(r"[#|>!`]|\$\$", markdown):
        return ""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(markdown.split()))
    parts = re.split(r"(\$[^$]+\$)", text)  # formulas stay as they are written
    return "".join(p if i % 2 else re.sub(r"(?<!\w)[*_]+|[*_]+(?!\w)|`", "", p) for i, p in enumerate(parts))


def alternative(code: str, heading: str, before: str, after: str, known: Mapping[str, str]) -> str:
    """What a figure shows, for readers who do not see it.

    The cell may say it (`#| fig-alt: ...`), or a page that shows the stored figure. Else it is put together: where it
    stands, what is written in it, the paragraph that leads to it (`before`), the one that follows it (`after`)."""
    if said := directives(code).get("fig-alt"):
        return said
    stored = SAVED.search(code)
    parts = [known.get(stored["name"], "") if stored else "", f"Figure in the section “{heading}”"]
    if words := drawn_words(code):
        parts.append(f"Written in it: {'; '.join(words)}")
    if lead := plain(re.split(r"\n\s*\n", before.strip())[-1]):
        parts.append(f"Before it: {shortened(lead, from_end=True)}")
    if comment := plain(re.split(r"\n\s*\n", after.strip())[0]):
        parts.append(f"After it: {shortened(comment)}")
    whole = " ".join(p if p.endswith((".", "?", "!")) else f"{p.rstrip(':')}." for p in parts if p)
    return " ".join(whole.split())


def shortened(text: str, from_end: bool = False) -> str:
    "Whole sentences from the beginning (or the end) of a text, at least one, no more than a reader listens to."
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z0-9(“])", text)
    taken: list[str] = []
    for sentence in reversed(sentences) if from_end else sentences:
        if taken and len(" ".join([*taken, sentence])) > LONGEST_BESIDE:
            break
        taken.insert(0, sentence) if from_end else taken.append(sentence)
    return " ".join(taken)


def code_cell(cell: dict) -> dict | None:
    "A code cell as it is shown; None: it is hidden."
    said = directives(cell["source"])
    code = DIRECTIVE.sub("", cell["source"]).strip("\n")
    if "hide" in said or not code.strip():
        return None
    tags = [tag for name, tag in (("hide_input", "remove-input"), ("hide_output", "remove-output")) if name in said]
    outputs = [o for o in cell["outputs"] if o["output_type"] != "error"]
    return {**cell, "source": code, "outputs": outputs, "metadata": {"tags": tags}}


def draws(cell: dict) -> bool:
    "Does a code cell store a picture?"
    return any(set(PICTURE_TYPES) & set(o.get("data", ())) for o in cell["outputs"])


WORD = re.compile(r'<span class="(?:n|nc|nf|ne)">(\w+)</span>')  # a name in highlighted code


def link_code(html: str, names: Mapping[str, Target], page: str) -> str:
    "A built page in whose code cells the library's names lead to their entries."
    up = "../" * page.count("/")

    def link(match: re.Match) -> str:
        target = names.get(match[1])
        if target is None:
            return match[0]
        return f'<a href="{up}api/{target.module}.html#{target.full}" class="api">{match[0]}</a>'

    blocks = re.split(r'(<div class="highlight-ipython3.*?</pre>)', html, flags=re.S)
    return "".join(WORD.sub(link, b) if i % 2 else b for i, b in enumerate(blocks))


def demoted(text: str) -> str:
    "Headings one level lower: a page that consists of several parts has one title all the same."
    return re.sub(rf"(?P<code>{CODE.pattern})|^(?=#+ )", lambda m: m["code"] or "#", text, flags=re.M | re.S)


def markdown_cell(ident: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": ident, "metadata": {}, "source": text}


def notebook_page(
    notebook: Notebook,
    site: Site,
    defined: Mapping[tuple[str, str], Collection[str]],  # page and cell -> full public names that it defines
    module: str | None,  # that the notebook makes
) -> dict:
    "A notebook as a page: what is shown, with links, and a line of names before each cell that defines some."
    own, cells, source = notebook.own_names(), [], notebook.source
    headings = dict(notebook.headings())
    texts = [c["source"] if c["cell_type"] == "markdown" else "" for c in notebook.cells]
    first = next(i for i, text in enumerate(texts) if text)
    part = next((i for i, text in enumerate(texts) if i > first and PART.search(CODE.sub("", text))), len(texts))
    for i, c in enumerate(notebook.cells):
        if c["cell_type"] == "markdown":
            text = demoted(c["source"]) if i >= part else c["source"]
            if i == first:
                made = f" · makes the module {{py:mod}}`{module}`" if module else ""
                line = f"{{.where}}\nnotebook [{source}]({site.on_host(source)}){made}\n\n"
                opening = TITLE.match(text)
                text = f"# {notebook.title}\n\n{opening['promise']}\n{line}{text[opening.end() :]}"
            cells.append(markdown_cell(c["id"], link_names(rewritten(text, source, site), site.names, own)))
            continue
        shown = code_cell(c)
        if shown is None:
            continue
        if draws(shown):
            before = next(filter(None, reversed(texts[:i])), "")
            after = next(filter(None, texts[i + 1 :]), "")
            alt = alternative(c["source"], headings[c["id"]], before, after, site.alternatives)
            shown["metadata"]["mystnb"] = {"image": {"alt": alt}}
        key = (notebook.page, c["id"])
        if names := defined.get(key):
            links = ", ".join(f"{{py:obj}}`{full.rsplit('.', 1)[1]} <{full}>`" for full in names)
            cells.append(markdown_cell(f"{c['id']}-d", f"({cell_label(*key)})=\n\n{{.defines}}\ndefines {links}"))
        cells.append(shown)
        if PLAY.search(shown["source"]) and not shown["outputs"]:
            cells.append(markdown_cell(f"{c['id']}-p", HOW_TO_PLAY.format(source=source)))
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}

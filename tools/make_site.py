"""Build the site: course, studies, library, documentation and API reference as static pages (`make docs`).

    python tools/make_site.py          # writes build/site/html; open index.html there, no server is needed

The pages are those of the repository: notebooks with the outputs that they store, Markdown files, and a reference that
is read from the modules' source. Nothing of the library is imported, nothing is executed. Sphinx makes HTML of them,
without a warning, and then every link, anchor and picture of the result is looked at.

One file is not in the repository: MathJax, which draws the formulas. It is fetched once from npm's registry, compared
with its checksum, and kept in build/cache. Formulas are drawn in the reader's browser by this copy, so that they look
alike everywhere, can be read aloud, and need no network. Run it in the root of the repository.
"""

import ast
import configparser
import hashlib
import http.client
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from site_api import Module, Reference, names_of, read_package, toctree
from site_check import Report, check_site
from site_pages import Notebook, Site, SiteError, docname, link_code, markdown_page, notebook_page

MATHJAX = "https://registry.npmjs.org/mathjax/-/mathjax-3.2.2.tgz"
MATHJAX_FILE = "package/es5/tex-svg.js"
MATHJAX_SHA256 = "d4295dc33744836935c1399feece5159577b34c5c8ffb9f1c6324cd82e03a882"  # of that file
SECTIONS = {  # folder of notebooks -> title of its list, and a sentence on it
    "analysis": ("Analyses", "Tables and figures of the whole: what is published, what was measured here."),
    "studies": ("Studies", "Questions asked of data and models, and laboratories whose truth is known."),
    "artemis": ("ArtEmis", "The preprocessing of ArtEmis, step by step."),
    "synthetic": ("Synthetic data", "Paintings by a program, their annotators, and scores against the known odds."),
    "library": (
        "Library",
        "What a reader of the course need not meet: files, settings, training, generation, command.",
    ),
    "course/play": ("Plays", "The drawings with controls, one for each page of the course, and how they are made."),
    "course/solutions": ("Solutions", "Spoilers: an answer to each exercise, and the mistakes that its check knows."),
}
GUIDES = (  # in the order of the sidebar; others follow by name
    "install python command_line data training evaluation models results speed published teaching glossary notebooks"
).split()
FACTS = "method data protocol findings".split()
SHOWN = re.compile(r"!\[(?P<alt>[^\]]+)\]\([./]*figures/(?P<name>[\w-]+)\.\w+\)")  # a stored figure on a page
LISTED = re.compile(r"^\| \[[^\]]+\]\(\.\./nbs/([\w/]+)\.ipynb\)", re.M)  # a row of docs/notebooks.md
API_FRONT = """# API reference

> Every public name of the library: arguments with their types and what they are, where it is defined, and its source.

`import sevlm` offers {front}. Everything else is imported from its module.
"""


def fetch_mathjax(cache: Path) -> Path:
    "The one file that is not in the repository. Raises `SiteError` if it can neither be found nor fetched."
    path = cache / f"mathjax-{MATHJAX_SHA256[:12]}.js"
    if not path.is_file():
        try:
            with urllib.request.urlopen(MATHJAX, timeout=60) as answer:
                archive = tarfile.open(fileobj=io.BytesIO(answer.read()))
            content = archive.extractfile(MATHJAX_FILE).read()
        except (OSError, EOFError, KeyError, tarfile.TarError, http.client.HTTPException) as e:
            raise SiteError(
                f"MathJax, which draws the formulas, could not be fetched ({e}). It is needed once: run `make docs` "
                f"with a network, or put {MATHJAX_FILE} of {MATHJAX} at {path}."
            ) from e
        cache.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != MATHJAX_SHA256:
        path.unlink()
        raise SiteError(f"{path} was not MathJax 3.2.2 (SHA-256 {found}), and was removed. Run `make docs` again.")
    return path


def sources(root: Path) -> list[str]:
    "Files of the repository that may become pages."
    found = [*root.glob("nbs/**/*.ipynb"), *root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("docs/facts/*.md")]
    return sorted(p.relative_to(root).as_posix() for p in found if ".ipynb_checkpoints" not in p.parts)


def in_order(names: Iterable[str], first: Sequence[str]) -> list[str]:
    "Names in a given order; what is not in it comes last, by name."
    return sorted(names, key=lambda n: (first.index(n) if n in first else len(first), n))


def list_page(title: str, about: str, notebooks: Sequence[Notebook], folder: str) -> str:
    "A table of the notebooks of a folder, with their promises."
    rows = [f"| [{n.title}](/{n.page}.ipynb) | {n.promise.replace('|', chr(92) + '|')} |" for n in notebooks]
    names = [n.page.removeprefix(f"{folder}/") for n in notebooks]
    return "\n".join([f"# {title}", "", about, "", "| page | promise |", "| --- | --- |", *rows, "", toctree(names)])


def sidebar(course: Sequence[str], folders: Sequence[str]) -> str:
    "The first level of the sidebar; the road first, what stands beside it below it."
    beside = [f"{folder}/index" for folder in folders if folder.startswith("course/")]
    more = [f"{folder}/index" for folder in folders if not folder.startswith("course/")]
    reference = ["docs/index", "docs/facts/index", "api/index", "contributing", "changelog"]
    return "\n".join(
        [
            toctree([*course, *beside], ":caption: Course"),
            toctree(more, ":caption: More notebooks"),
            toctree(reference, ":caption: Reference"),
        ]
    )


class Source:
    "The folder that Sphinx reads. A file that does not change keeps its time: only changed pages are read anew."

    def __init__(self, folder: Path):
        self.folder, self.files = folder, set()

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        content = content.encode() if isinstance(content, str) else content
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.files.add(path)

    def remove_others(self) -> None:
        "Remove what an earlier build has left."
        for path in self.folder.rglob("*"):
            if path.is_file() and path not in self.files:
                path.unlink()


class Repository(NamedTuple):
    "All that the pages are made of."

    site: Site
    modules: list[Module]
    notebooks: list[Notebook]


def read_repository(root: Path) -> Repository:
    "Read modules and notebooks. Raises `SiteError` for a notebook without a title."
    settings = configparser.ConfigParser()
    settings.read(root / "settings.ini", encoding="utf-8")
    about = settings["DEFAULT"]
    modules = read_package(root, about["lib_name"])
    pages = {source: page for source in sources(root) if (page := docname(source))}
    texts = [(root / source).read_text(encoding="utf-8") for source in pages if source.endswith(".md")]
    shown = {m["name"]: m["alt"] for text in texts for m in SHOWN.finditer(text)}
    site = Site(root, pages, names_of(modules), shown, about["git_url"], about["branch"])
    return Repository(site, modules, [Notebook(source, root) for source in pages if source.endswith(".ipynb")])


def write_source(repository: Repository, out: Source) -> None:
    "All pages, as Sphinx reads them. Raises `SiteError` for a page that cannot be shown as it should."
    site, root = repository.site, repository.site.root
    listed = LISTED.findall((root / "docs" / "notebooks.md").read_text(encoding="utf-8"))
    by_page = {n.page: n for n in repository.notebooks}
    folders: dict[str, list[Notebook]] = {}
    for notebook in map(by_page.get, in_order(by_page, listed)):
        folders.setdefault(notebook.page.rpartition("/")[0], []).append(notebook)
    for folder, (title, sentence) in SECTIONS.items():
        if folder in folders:
            out.write(f"{folder}/index.md", list_page(title, sentence, folders[folder], folder))
    guides, facts = ([p.stem for p in root.glob(f"{d}/*.md") if p.stem != "README"] for d in ("docs", "docs/facts"))
    below = {
        "index": sidebar([n.page for n in folders["course"]], [folder for folder in SECTIONS if folder in folders]),
        "docs/index": toctree(in_order(guides, GUIDES)),
        "docs/facts/index": toctree(in_order(facts, FACTS)),
    }
    for source, page in site.pages.items():
        if source.endswith(".md"):
            out.write(f"{page}.md", f"{markdown_page(source, site)}\n\n{below.get(page, '')}")
    write_notebooks(repository, out)
    write_reference(repository, out)
    for figure in (root / "figures").iterdir():
        out.write(f"figures/{figure.name}", figure.read_bytes())


def write_notebooks(repository: Repository, out: Source) -> None:
    "The notebooks, each with the names that its cells define."
    defined: dict[tuple[str, str], list[str]] = {}
    for module in repository.modules:
        for entry in module.entries:
            if entry.cell:
                defined.setdefault(entry.cell, []).append(f"{module.name}.{entry.name}")
    made = {module.page: module.name for module in repository.modules}
    for notebook in repository.notebooks:
        page = notebook_page(notebook, repository.site, defined, made.get(notebook.page))
        out.write(f"{notebook.page}.ipynb", json.dumps(page, ensure_ascii=False))


def write_reference(repository: Repository, out: Source) -> None:
    "The pages of the API reference."
    site, notebooks = repository.site, repository.notebooks
    titles = {n.page: n.title for n in notebooks}
    sections = {(n.page, ident): f"{n.title} › {heading}" for n in notebooks for ident, heading in n.headings()}
    reference = Reference(repository.modules, f"{site.url}/blob/{site.branch}", titles, sections)
    for name, text in reference.files(API_FRONT.format(front=front_door(site))).items():
        out.write(f"api/{name}.md", text)


def front_door(site: Site) -> str:
    "The public names of the package itself, as links."
    tree = ast.parse((site.root / "sevlm" / "__init__.py").read_text(encoding="utf-8"))
    names = next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"
    )
    return ", ".join(f"{{py:obj}}`{n} <{site.names[n].full}>`" for n in names)


def run_sphinx(settings: Path, source: Path, html: Path, doctrees: Path) -> None:
    "Make HTML. Raises `SiteError` if Sphinx warns; it has then said of what."
    words = ["-W", "--keep-going", "-q", "-b", "html", "-j", "auto", "-c", settings, "-d", doctrees]
    if subprocess.run([sys.executable, "-m", "sphinx", *words, source, html]).returncode:
        shutil.rmtree(doctrees, ignore_errors=True)  # else the next call would pass over pages that were warned of
        raise SiteError("Sphinx has warned (above); a site is published without warnings only.")


def build(root: Path, out: Path) -> Report:
    "Make the site in `out`/html, then look at all of it. Raises `SiteError`."
    source, html = Source(out / "source"), out / "html"
    repository = read_repository(root)
    write_source(repository, source)
    source.remove_others()
    shutil.rmtree(html, ignore_errors=True)  # all pages are written anew: each has the whole sidebar
    script = fetch_mathjax(root / "build" / "cache")
    run_sphinx(root / "docs" / "site", source.folder, html, out / "doctrees")
    (html / "_static" / "mathjax").mkdir(exist_ok=True)
    shutil.copy(script, html / "_static" / "mathjax" / "tex-svg.js")
    for notebook in repository.notebooks:
        page = html / f"{notebook.page}.html"
        linked = link_code(
            page.read_text(encoding="utf-8"), notebook.library_names(repository.site.names), notebook.page
        )
        page.write_text(linked, encoding="utf-8")
    report = check_site(html)
    elsewhere = [a for a in report.external if not a.startswith(f"{repository.site.url}/")]  # our own files are there
    return report._replace(external=elsewhere)


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    out = root / "build" / "site"
    try:
        report = build(root, out)
    except SiteError as e:
        print(e)
        return 1
    (out / "external.txt").write_text("\n".join(report.external) + "\n", encoding="utf-8")
    print(*report.faults, sep="\n")
    print(
        f"{report.pages} pages, {len(report.faults)} faults. Addresses elsewhere are listed in {out / 'external.txt'}."
    )
    print(f"Open {out / 'html' / 'index.html'}.")
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())

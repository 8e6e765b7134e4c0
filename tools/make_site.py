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
import io
import json
import shutil
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from site_api import Module, Reference, names_of, read_package, toctree
from site_check import check_site
from site_pages import Notebook, Site, SiteError, docname, markdown_page, notebook_page

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
        except OSError as e:
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


def tracked(root: Path) -> list[str]:
    "Files of the repository that may become pages."
    found = [*root.glob("nbs/**/*.ipynb"), *root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("docs/facts/*.md")]
    return sorted(p.relative_to(root).as_posix() for p in found if ".ipynb_checkpoints" not in p.parts)


def in_order(names: Sequence[str], first: Sequence[str]) -> list[str]:
    "Names in a given order; what is not in it comes last, by name."
    return sorted(names, key=lambda n: (first.index(n) if n in first else len(first), n))


def list_page(title: str, about: str, notebooks: Sequence[Notebook], folder: str) -> str:
    "A table of the notebooks of a folder, with their promises."
    rows = [f"| [{n.title}](/{n.page}.ipynb) | {n.promise.replace('|', chr(92) + '|')} |" for n in notebooks]
    names = [n.page.removeprefix(f"{folder}/") for n in notebooks]
    return "\n".join([f"# {title}", "", about, "", "| page | promise |", "| --- | --- |", *rows, "", toctree(names)])


def sidebar(course: Sequence[str]) -> str:
    "The first level of the sidebar; the road first."
    beside = ["course/play/index", "course/solutions/index"]
    more = [f"{folder}/index" for folder in SECTIONS if not folder.startswith("course/")]
    return "\n".join(
        [
            toctree([*course, *beside], ":caption: Course"),
            toctree(more, ":caption: More notebooks"),
            toctree(
                ["docs/index", "docs/facts/index", "api/index", "contributing", "changelog"], ":caption: Reference"
            ),
        ]
    )


class Source:
    "The folder that Sphinx reads. A file that does not change keeps its time: only changed pages are made anew."

    def __init__(self, folder: Path):
        self.folder, self.files = folder, set()

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        content = content.encode() if isinstance(content, str) else content
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.files.add(path)

    def remove_others(self) -> bool:
        "Remove what an earlier build has left; whether there was something."
        others = [path for path in self.folder.rglob("*") if path.is_file() and path not in self.files]
        for path in others:
            path.unlink()
        return bool(others)


def write_source(root: Path, out: Source) -> None:
    "All pages, as Sphinx reads them. Raises `SiteError` for a page that cannot be shown as it should."
    settings = configparser.ConfigParser()
    settings.read(root / "settings.ini", encoding="utf-8")
    about = settings["DEFAULT"]
    modules = read_package(root, about["lib_name"])
    pages = {source: page for source in tracked(root) if (page := docname(source))}
    site = Site(root, pages, names_of(modules), about["git_url"], about["branch"])
    notebooks = [Notebook(source, root) for source in pages if source.endswith(".ipynb")]
    write_notebooks(notebooks, modules, site, out)
    folders = {
        folder: [n for n in notebooks if n.page.rpartition("/")[0] == folder] for folder in ["course", *SECTIONS]
    }
    for folder, (title, sentence) in SECTIONS.items():
        out.write(f"{folder}/index.md", list_page(title, sentence, folders[folder], folder))
    guides, facts = ([p.stem for p in root.glob(f"{d}/*.md") if p.stem != "README"] for d in ("docs", "docs/facts"))
    below = {
        "index": sidebar([n.page for n in folders["course"]]),
        "docs/index": toctree(in_order(guides, GUIDES)),
        "docs/facts/index": toctree(in_order(facts, FACTS)),
    }
    for source, page in pages.items():
        if source.endswith(".md"):
            out.write(f"{page}.md", f"{markdown_page(source, site)}\n\n{below.get(page, '')}")
    write_reference(notebooks, modules, site, out)
    for figure in (root / "figures").iterdir():
        out.write(f"figures/{figure.name}", figure.read_bytes())


def write_notebooks(notebooks: Sequence[Notebook], modules: Sequence[Module], site: Site, out: Source) -> None:
    defined: dict[tuple[str, str], list[str]] = {}
    for module in modules:
        for entry in module.entries:
            if entry.cell:
                defined.setdefault(entry.cell, []).append(f"{module.name}.{entry.name}")
    made = {module.page: module.name for module in modules}
    for notebook in notebooks:
        page = notebook_page(notebook, site, defined, made.get(notebook.page))
        out.write(f"{notebook.page}.ipynb", json.dumps(page, ensure_ascii=False))


def write_reference(notebooks: Sequence[Notebook], modules: Sequence[Module], site: Site, out: Source) -> None:
    titles = {n.page: n.title for n in notebooks}
    sections = {(n.page, ident): f"{n.title} › {heading}" for n in notebooks for ident, heading in n.headings()}
    reference = Reference(modules, f"{site.url}/blob/{site.branch}", titles, sections)
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


def build(root: Path, out: Path) -> int:
    "Make the site in `out`/html, then check it; the number of faults."
    source, html = out / "source", out / "html"
    write_source(root, pages := Source(source))
    if pages.remove_others():  # pages that are no more
        shutil.rmtree(html, ignore_errors=True)
    script = fetch_mathjax(root / "build" / "cache")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-j", "auto", "-c", str(root / "docs" / "site")]
    command = [sys.executable, "-m", "sphinx", *words, "-d", str(out / "doctrees"), str(source), str(html)]
    if subprocess.run(command).returncode:
        print("Sphinx has warned (above); a site is published without a warning only.")
        return 1
    (html / "_static" / "mathjax").mkdir(exist_ok=True)
    shutil.copy(script, html / "_static" / "mathjax" / "tex-svg.js")
    report = check_site(html)
    (out / "external.txt").write_text("\n".join(report.external) + "\n", encoding="utf-8")
    print("\n".join(report.faults))
    print(
        f"{report.pages} pages, {len(report.faults)} faults; {len(report.external)} addresses elsewhere are listed in"
    )
    print(f"{out / 'external.txt'}. Open {html / 'index.html'}.")
    return len(report.faults)


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    try:
        return 1 if build(root, root / "build" / "site") else 0
    except SiteError as e:
        print(e)
        return 1


if __name__ == "__main__":
    sys.exit(main())

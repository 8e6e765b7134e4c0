"""The site: pages with working links and linked names, pictures with alternatives, a reference read from the source."""

import io
import json
import re
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "tools").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("the tools are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))

import make_site  # noqa: E402
from site_api import Reference, link_names, read_module  # noqa: E402
from site_check import check_site  # noqa: E402
from site_pages import SiteError, alternative, demoted, link_code, rewritten  # noqa: E402

MODULE = '''"""How to greet, in `Tone`s."""

__all__ = ["LOUD", "Tone", "greet", "Greeter"]

# %% ../nbs/course/00_tour.ipynb #aaaa1111
from dataclasses import dataclass, field

LOUD = 3  # exclamation marks


@dataclass
class Tone:
    "How it sounds, <b> or $x$ or *y*."

    marks: int = LOUD  # at the end
    words: dict = field(default_factory=dict)  # `Tone` by word


# %% ../nbs/course/00_tour.ipynb #bbbb2222
def greet(
    name: str,  # of whoever comes, [T] letters
    *others: str,
    tone: Tone | None = None,  # how
) -> str:  # the greeting
    "Says hello. Raises `KeyError`."
    return name


class Greeter:
    "Greets everybody."

    def __init__(
        self,
        tone: Tone,  # always the same
    ):
        self.tone = tone

    def __call__(self, name: str) -> str:
        return name

    @classmethod
    def loud(cls) -> "Greeter":
        "With many marks."
        return cls(Tone(LOUD))

    def _hidden(self): ...
'''


def notebook(*cells):
    "A notebook of texts (Markdown) and of pairs of code and outputs."
    made = []
    for i, c in enumerate(cells):
        ident, c = c if isinstance(c, tuple) and len(c) == 2 and isinstance(c[1], tuple) else (f"cell{i:04}", c)
        if isinstance(c, str):
            made.append({"cell_type": "markdown", "id": ident, "metadata": {}, "source": c})
        else:
            code = {"cell_type": "code", "id": ident, "metadata": {}, "execution_count": None}
            made.append({**code, "source": c[0], "outputs": list(c[1:])})
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
DRAWN = {"output_type": "display_data", "metadata": {}, "data": {"image/png": PNG, "text/plain": "<Figure>"}}
TOUR = notebook(
    ("cell0000", ("#| default_exp greet",)),
    "# A tour\n\n> All in `greet`.\n\n![A grey square](../../figures/grey.png)\n\n"
    "See [more](../library/more.ipynb#The-end), "
    "[facts](../../docs/facts/README.md#fact-1), [code](../../sevlm/greet.py), [below](#Said-twice). `mine` is mine.",
    ("aaaa1111", ("#| export\nfrom dataclasses import dataclass\n\nLOUD = 3\n\n\n@dataclass\nclass Tone: ...",)),
    "## Said twice\n\nWith $x$ and `Tone`.",
    ("bbbb2222", ("#| export\ndef greet(name): ...\n\n\nclass Greeter: ...",)),
    ("cell0005", ("#| hide\nsecret = 1",)),
    ("cell0006", ('mine = greet("you")\nax.set(title="a bar", xlabel="metres")\nplt.show()', DRAWN)),
    "It is *flat*, as [expected](#Said-twice). So be it.",
    ("cell0008", ("from sevlm.greet import greet\nplay_00()",)),
)
MORE = notebook("# More\n\n> More of it.", "## The end\n\n`sevlm.greet` and `Greeter.loud()` and `sevlm.greet.LOUD`.")
FILES = {
    "settings.ini": "[DEFAULT]\nlib_name = sevlm\ngit_url = https://example.org/a/sevlm\nbranch = main\n",
    "README.md": "# sevlm\n\n`greet`, [tour](nbs/course/00_tour.ipynb), [LICENSE](LICENSE), [figures](figures).\n",
    "LICENSE": "free",
    "CONTRIBUTING.md": "# Contributing\n\n```text\n`greet` [x](nowhere.md)\n```\n",
    "CHANGELOG.md": "# Changelog\n\nNothing.\n",
    "docs/README.md": "# Documentation\n\n[facts](facts/README.md), [root](../README.md)\n",
    "docs/notebooks.md": "# Notebooks\n\n[more](../nbs/library/more.ipynb)\n",
    "docs/facts/README.md": '# Facts\n\n<a id="fact-1"></a>\n## One: a fact\n\nTrue.\n',
    "sevlm/__init__.py": '__all__ = ["greet"]\n',
    "sevlm/greet.py": MODULE,
    "nbs/course/00_tour.ipynb": TOUR,
    "nbs/library/more.ipynb": MORE,
}


def read_module_text(text):
    "A module from its text."
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "sevlm" / "greet.py"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        return read_module(Path(place), path)


@pytest.fixture
def tiny(tmp_path):
    "A repository with two notebooks and one module."
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "figures").mkdir()
    Image.new("RGB", (1000, 10), "grey").save(tmp_path / "figures" / "grey.png")
    shutil.copytree(ROOT / "docs" / "site", tmp_path / "docs" / "site")
    return tmp_path


@pytest.fixture
def written(tiny):
    "The source of its site: name of a page -> its text, for notebooks the cells."
    make_site.write_source(make_site.read_repository(tiny), out := make_site.Source(tiny / "out"))
    texts = {p.relative_to(out.folder).as_posix(): p for p in out.files if p.suffix in (".md", ".ipynb")}
    return {
        name: json.loads(p.read_text(encoding="utf-8"))["cells"]
        if name.endswith("ipynb")
        else p.read_text(encoding="utf-8")
        for name, p in texts.items()
    }


def test_links_lead_to_pages_pictures_and_the_host(written):
    opening = written["course/00_tour.ipynb"][0]["source"]
    assert opening.startswith("# 00 A tour\n\n> All in {py:obj}`greet <sevlm.greet.greet>`.")
    assert "makes the module {py:mod}`sevlm.greet`" in opening
    assert "![A grey square](/figures/grey.png){.wide}" in opening
    assert "[more](/library/more.ipynb#the-end)" in opening and "[below](#said-twice)" in opening
    assert "[facts](/docs/facts/index.md#fact-1)" in opening and "(fact-1)=\n## One" in written["docs/facts/index.md"]
    assert "[code](https://example.org/a/sevlm/blob/main/sevlm/greet.py)" in opening
    home = written["index.md"]
    assert "[LICENSE](https://example.org/a/sevlm/blob/main/LICENSE)" in home
    assert "[figures](https://example.org/a/sevlm/tree/main/figures)" in home and "course/00_tour" in home
    assert "`greet` [x](nowhere.md)" in written["contributing.md"]  # an example is left as it is


def test_names_of_the_library_are_linked_and_no_others(written):
    cells = written["course/00_tour.ipynb"]
    assert "`mine` is mine" in cells[0]["source"]
    end = written["library/more.ipynb"][1]["source"]
    assert "{py:mod}`sevlm.greet <sevlm.greet>`" in end and "{py:obj}`sevlm.greet.LOUD <sevlm.greet.LOUD>`" in end
    assert "{py:obj}`Greeter.loud() <sevlm.greet.Greeter.loud>`" in end
    names = make_site.names_of([read_module_text(MODULE)])
    for text in ("# `greet`", "```\n`greet`\n```", "[`greet`](x.md)", "$$`greet`$$", "{py:obj}`greet`", "`other`"):
        assert link_names(text, names) == text
    assert link_names("`greet`", names, own={"greet"}) == "`greet`"


def test_cells_are_shown_as_they_should(written):
    cells = written["course/00_tour.ipynb"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert [c["source"].splitlines()[0] for c in code] == [
        "from dataclasses import dataclass",
        "def greet(name): ...",
        'mine = greet("you")',
        "from sevlm.greet import greet",
    ]
    before = cells[cells.index(code[0]) - 1]["source"]
    assert before.startswith("(def-course-00-tour-aaaa1111)=") and "{py:obj}`LOUD <sevlm.greet.LOUD>`" in before
    assert "make lab" in cells[-1]["source"] and "nbs/course/00_tour.ipynb" in cells[-1]["source"]
    alt = code[2]["metadata"]["mystnb"]["image"]["alt"]
    assert alt == (
        "Figure in the section “Said twice”. Written in it: a bar; metres. Before it: With $x$ and Tone. "
        "After it: It is flat, as expected. So be it."
    )
    assert alternative("#| fig-alt: Two bars\nplt.show()", "x", "", "", {}) == "Two bars"
    stored = alternative(
        'save_figure(fig, "bars")', "x", "## Not prose", "One. " * 99, {"bars": "Two bars, one higher"}
    )
    assert (
        stored.startswith("Two bars, one higher. Figure in the section “x”. After it: One. One.") and len(stored) < 260
    )


def test_a_page_has_one_title(tiny):
    assert demoted("# A\n\n```\n# no\n```\n## B") == "## A\n\n```\n# no\n```\n### B"
    parts = notebook("# Page\n\n> Two parts.", "## First", "# One\n\n## Begin", "# Two")
    (tiny / "nbs" / "library" / "more.ipynb").write_text(parts, encoding="utf-8")
    (tiny / "nbs" / "course" / "00_tour.ipynb").write_text(notebook("# Tour\n\n> Short.\n\n## End"), encoding="utf-8")
    make_site.write_source(make_site.read_repository(tiny), make_site.Source(tiny / "out"))
    expected = {"library/more": "# Page,## First,## One,### Begin,## Two", "course/00_tour": "# 00 Tour,## End"}
    for page, headings in expected.items():
        cells = json.loads((tiny / "out" / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
        assert [line for c in cells for line in c["source"].splitlines() if line.startswith("#")] == headings.split(",")


def test_what_cannot_be_shown_is_refused(tiny):
    site = make_site.read_repository(tiny).site
    with pytest.raises(SiteError, match=r"README.md: the picture figures/grey.png has no alternative"):
        rewritten("![](figures/grey.png)", "README.md", site)
    with pytest.raises(SiteError, match=r"docs/x.md: the link gone.md leads to nothing: there is no docs/gone.md"):
        rewritten("[x](gone.md)", "docs/x.md", site)
    (tiny / "nbs" / "library" / "untitled.ipynb").write_text(notebook("no title"), encoding="utf-8")
    with pytest.raises(SiteError, match="untitled.ipynb does not begin with"):
        make_site.read_repository(tiny)


def test_reference_has_what_the_source_says(written):
    page = written["api/sevlm.greet.md"]
    assert "{py:function} greet(name, *others, tone=None)" in page
    assert '| `name` | <code class="type">str</code> |  | of whoever comes, \\[T\\] letters |' in page
    tone = '<code class="type"><a href="sevlm.greet.html#sevlm.greet.Tone">Tone</a> \\| None</code>'
    assert f"| `tone` | {tone} | `None` | how |" in page
    assert '| *returns* | <code class="type">str</code> |  | the greeting |' in page
    assert "{py:class} Tone(marks=LOUD, words=dict())" in page and "\\<b> or \\$x\\$ or \\*y\\*" in page
    assert "{py:class} Greeter(tone)" in page and "````{py:method} loud()\n:classmethod:" in page
    assert "_hidden" not in page and "__call__" not in page  # the second has no docstring
    assert "```python\n3\n```" in page and "exclamation marks" in page
    assert "defined in [00 A tour › Said twice](#def-course-00-tour-bbbb2222)" in page
    line = MODULE.splitlines().index("def greet(") + 1
    assert f"https://example.org/a/sevlm/blob/main/sevlm/greet.py#L{line}" in page
    assert "{py:obj}`greet <sevlm.greet.greet>`" in written["api/index.md"]


def test_a_module_without_public_names_has_no_page():
    assert read_module_text("x = 1\n") is None
    module = read_module_text("__all__ = ['f']\n\n\ndef f(x: int): ...  # one line\n")
    assert [e.name for e in module.entries] == ["f"] and Reference([module], "u", {}, {}).files("# API")["sevlm.greet"]


def test_names_in_highlighted_code_are_linked():
    names = make_site.names_of([read_module_text(MODULE)])
    html = '<p><span class="n">greet</span></p><div class="highlight-ipython3"><pre><span class="n">greet</span></pre>'
    linked = link_code(html, names, "course/00_tour")
    assert linked.count('<a href="../api/sevlm.greet.html#sevlm.greet.greet" class="api">') == 1
    assert linked.startswith('<p><span class="n">greet</span></p>')  # elsewhere it is not


def test_the_checker_finds_what_is_broken(tmp_path):
    good = (
        '<html><body id="top"><a href="b.html#x">b</a><a href="#top">t</a><img src="p.png" alt="a dot"></body></html>'
    )
    (tmp_path / "a.html").write_text(good, encoding="utf-8")
    (tmp_path / "b.html").write_text('<p id="x"><a href="https://example.org">e</a><a href="sub/">s</a></p>', "utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text('<a href="../a.html?q=1#top">a</a>', encoding="utf-8")
    (tmp_path / "p.png").write_bytes(b"")
    report = check_site(tmp_path)
    assert report.faults == [] and report.pages == 3 and report.external == ["https://example.org"]
    bad = '<a href="c.html">c</a><a href="b.html#y">y</a><img src="p.png"><img src="q.png" alt="q"><p>x <bos> y</p>'
    (tmp_path / "a.html").write_text(bad, encoding="utf-8")
    assert [f.split(": ", 1)[1][:24] for f in check_site(tmp_path).faults if f.startswith("a.html")] == [
        "the picture p.png has no",
        "<bos> is no element of H",
        "c.html leads to nothing",
        "b.html#y leads to a page",
        "q.png leads to nothing",
    ]


def test_mathjax_is_fetched_once_and_compared(tmp_path, monkeypatch):
    def no_network(*args, **kw):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(SiteError, match="could not be fetched .*no network.* run `make docs` with a network, or put"):
        make_site.fetch_mathjax(tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"<html>Please log in.</html>"))
    with pytest.raises(SiteError, match="could not be fetched"):
        make_site.fetch_mathjax(tmp_path)
    wrong = tmp_path / f"mathjax-{make_site.MATHJAX_SHA256[:12]}.js"
    wrong.write_text("something else", encoding="utf-8")
    with pytest.raises(SiteError, match="was not MathJax 3.2.2"):
        make_site.fetch_mathjax(tmp_path)
    assert not wrong.exists()


def test_a_tiny_site_is_built_and_a_warning_is_refused(tiny, monkeypatch, capfd):
    pytest.importorskip("furo")
    script = tiny / "mathjax.js"
    script.write_text("", encoding="utf-8")
    monkeypatch.setattr(make_site, "fetch_mathjax", lambda cache: script)
    report = make_site.build(tiny, tiny / "out")
    assert report.faults == [] and report.pages > 12
    page = (tiny / "out" / "html" / "course" / "00_tour.html").read_text(encoding="utf-8")
    assert 'class="api"' in page and "secret" not in page and "#| export" not in page
    assert 'href="../api/sevlm.greet.html#sevlm.greet.Tone"' in page and 'id="def-course-00-tour-bbbb2222"' in page
    assert "https://example.org/a/sevlm/blob/main/sevlm/greet.py" in page and not report.external[1:]  # furo's own
    (tiny / "CHANGELOG.md").write_text("# Changelog\n\n[x](#not-there)\n", encoding="utf-8")
    with pytest.raises(SiteError, match="Sphinx has warned"):
        make_site.build(tiny, tiny / "out")
    assert "not-there" in capfd.readouterr().err


def test_every_page_of_the_repository_can_be_shown(tmp_path):
    "Links of all notebooks and Markdown files lead somewhere, and their pictures have alternatives."
    repository = make_site.read_repository(ROOT)
    make_site.write_source(repository, out := make_site.Source(tmp_path))
    assert {p.relative_to(tmp_path).as_posix() for p in out.files} >= {
        "index.md",
        "api/sevlm.models.fusion.md",
        *(f"{n.page}.ipynb" for n in repository.notebooks),
    }
    road = re.findall(r"^course/\d\d_\w+$", (tmp_path / "index.md").read_text(encoding="utf-8"), re.M)
    assert road == sorted(road) and len(road) == 16
    guide = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    for folder in ("library", "studies", "artemis", "synthetic", "analysis"):
        shown = (tmp_path / folder / "index.md").read_text(encoding="utf-8")
        listed = re.findall(rf"^\| .*?nbs/({folder}/\w+)", guide, re.M)
        assert re.findall(rf"\(/({folder}/\w+)\.ipynb\)", shown) == listed
        assert set(listed) == {
            p.relative_to(ROOT / "nbs").with_suffix("").as_posix() for p in (ROOT / "nbs" / folder).glob("*.ipynb")
        }
    texts = [(tmp_path / f"{n.page}.ipynb").read_text(encoding="utf-8") for n in repository.notebooks]
    cells = [c for text in texts for c in json.loads(text)["cells"]]
    alternatives = [c["metadata"]["mystnb"]["image"]["alt"] for c in cells if "mystnb" in c["metadata"]]
    assert len(alternatives) > 100 and all(len(alt) > 20 for alt in alternatives)

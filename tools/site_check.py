"""What is wrong with a built site: links and anchors that lead nowhere, pictures without an alternative, odd tags."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

KNOWN = re.compile(  # elements that our pages are made of; another one is a word such as <bos> that was not escaped
    r"html|head|meta|link|script|noscript|style|title|body|main|nav|header|footer|article|section|aside|div|span|h[1-6]|"
    r"p|a|ul|ol|li|dl|dt|dd|em|strong|i|b|u|s|sub|sup|br|hr|wbr|code|pre|tt|kbd|samp|var|blockquote|cite|q|small|abbr|"
    r"table|colgroup|col|thead|tbody|tfoot|tr|th|td|caption|figure|figcaption|img|picture|svg|symbol|path|g|line|"
    r"polyline|polygon|circle|rect|defs|use|text|tspan|form|input|label|button|select|option|details|summary|iframe|math"
)


class Page(HTMLParser):
    "Reads a page: where its links go, which anchors it has, and what is wrong with it."

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.faults: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in (("id", "name") if tag == "a" else ("id",)) if name in given}
        self.links += [given[name] for name in ("href", "src") if given.get(name)]
        if tag == "img" and not given.get("alt", "").strip():
            self.faults.append(f"the picture {given.get('src')} has no alternative")
        if not KNOWN.fullmatch(tag):
            self.faults.append(f"<{tag}> is no element of HTML; write &lt;{tag}> or put it between backticks")


class Report(NamedTuple):
    "What a check found."

    pages: int
    faults: list[str]  # page: what is wrong
    external: list[str]  # addresses outside of the site; they are not visited


def check_site(folder: Path) -> Report:
    "Look at all pages below `folder`."
    folder = folder.resolve()
    read = {p.resolve(): Page(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.html"))}
    faults, external = [], set()
    for path, page in read.items():
        name = path.relative_to(folder).as_posix()
        faults += [f"{name}: {fault}" for fault in page.faults]
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme != "data":
                    external.add(link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_relative_to(folder):
                faults.append(f"{name}: {link} leads out of the site")
            elif not target.is_file():
                faults.append(f"{name}: {link} leads to nothing")
            elif parts.fragment and target in read and unquote(parts.fragment) not in read[target].anchors:
                faults.append(f"{name}: {link} leads to a page without that anchor")
    return Report(len(read), faults, sorted(external))

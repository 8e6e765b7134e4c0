"""One version: settings.ini has it, and everything else that names it says the same."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

import sevlm

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "settings.ini").exists():  # e.g. when only the wheel and the tests are at hand: say so, do not pass
    pytest.skip("settings.ini is not beside the tests", allow_module_level=True)
PARSER = ConfigParser(delimiters=["="])
PARSER.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = PARSER["DEFAULT"]
VERSION = SETTINGS["version"]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_package_and_citation():
    assert sevlm.__version__ == VERSION
    assert re.findall(r"^version: (.+)$", text_of("CITATION.cff"), re.M) == [VERSION]


def test_the_changelog_begins_with_it():
    first = re.search(r"^## (\S+) \((\S+)\)$", text_of("CHANGELOG.md"), re.M)
    assert first and first[1] == VERSION and re.fullmatch(r"\d{4}-\d\d-\d\d", first[2])


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))])
def test_pages_name_the_wheel_of_this_version(page):
    assert set(re.findall(r"sevlm-([\d.]+)-py3-none-any\.whl", text_of(page))) <= {VERSION}


def test_the_readme_says_how_to_install_it():
    assert f"sevlm-{VERSION}-py3-none-any.whl" in text_of("README.md")


def test_pythons_are_the_same_everywhere():
    "The oldest Python of the settings is that of the tools; the workflow of a release runs all that are promised."
    oldest, newest = (int(SETTINGS[key].split(".")[1]) for key in ("min_python", "max_python"))
    assert f'target-version = "py3{oldest}"' in text_of("pyproject.toml")
    workflow = text_of(".github/workflows/release.yml")
    listed = re.search(r"python: \[(.+)\]", workflow)[1]
    assert re.findall(r"3\.\d+", listed) == [f"3.{minor}" for minor in range(oldest, newest + 1)]

"""The tools of a release: what they refuse, without a network and without installing anything."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "tools" / "release.py").exists():  # e.g. when only the wheel and the tests are at hand
    pytest.skip("the tools are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))

import audit  # noqa: E402
import covered  # noqa: E402
import environments  # noqa: E402
import lowest  # noqa: E402
import release  # noqa: E402

SETTINGS = environments.read_settings(ROOT)
CORE = SETTINGS["requirements"].split()
METADATA = {
    "Name": "sevlm",
    "Version": SETTINGS["version"],
    "Requires-Python": f">={SETTINGS['min_python']}",
    "License-Expression": "Apache-2.0",
    "Description-Content-Type": "text/markdown",
}


def metadata(description="", core=CORE, **changes):
    fields = {**METADATA, **changes}
    needs = [f"Requires-Dist: {need}" for need in core] + ['Requires-Dist: pandas>=2.2; extra == "metrics"']
    return "\n".join([*(f"{key}: {value}" for key, value in fields.items()), *needs, "", description])


# ---- what is in the archives


def test_files_that_are_missing_or_do_not_belong():
    wanted = {"sevlm/a.py", "sevlm/py.typed"}
    files = {"sevlm/a.py": b"", "sevlm/run.log": b"", "tests/test_a.py": b"", "sevlm-1.dist-info/METADATA": b""}
    assert release.check_files(files, wanted, r"sevlm-1\.dist-info/") == [
        "sevlm/py.typed is missing",
        "sevlm/run.log does not belong there",
        "tests/test_a.py does not belong there",
    ]


def test_a_place_of_the_machine_is_found():
    files = {"sevlm/a.py": b"x = 1", "sevlm/assets/a.json": b'{"from": "/somebody/at/home/x"}'}
    assert release.check_privacy(files, ["/somebody/at/home"]) == ["sevlm/assets/a.json names /somebody/at/home"]


def test_metadata_that_are_right_and_wrong():
    assert release.check_metadata(metadata("[here](https://example.org/a) and [there](#below)"), SETTINGS) == []
    (wrong,) = release.check_metadata(metadata(Version="0.0.1"), SETTINGS)
    assert wrong.startswith("Version: '0.0.1', expected")
    assert release.check_metadata(metadata(core=CORE[:-1]), SETTINGS) == [f"does not require {CORE[-1]}"]
    assert release.check_metadata(metadata(core=["torch", *CORE[1:]]), SETTINGS) == [
        "requires torch, which settings.ini does not",
        f"does not require {CORE[0]}",
    ]
    (wrong,) = release.check_metadata(metadata("![a](figures/a.png)"), SETTINGS)
    assert "links to figures/a.png" in wrong


def test_archives_are_read_by_the_names_in_the_package(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("sevlm/a.py", "x = 1")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("sevlm-1/sevlm/a.py")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"x = 1"))
    for name in ("a.whl", "a.tar.gz"):
        assert release.read_archive(tmp_path / name) == {"sevlm/a.py": b"x = 1"}


def test_only_one_wheel_and_one_sdist_of_this_version(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "DIST", tmp_path / "dist")
    with pytest.raises(environments.ReleaseError, match="holds nothing"):
        release.built("1.2.3")
    (tmp_path / "dist").mkdir()
    for name in ("sevlm-1.2.3-py3-none-any.whl", "sevlm-1.2.3.tar.gz", ".gitignore"):
        (tmp_path / "dist" / name).write_bytes(b"")
    wheel, sdist = release.built("1.2.3")
    assert (wheel.suffix, sdist.suffix) == (".whl", ".gz")
    (tmp_path / "dist" / "sevlm-1.2.2-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(environments.ReleaseError, match="1.2.2"):
        release.built("1.2.3")


def test_a_user_has_nothing_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SEVLM_CACHE", str(tmp_path))
    found = release.clean_variables(tmp_path / "bin" / "python", tmp_path / "home")
    assert not found.keys() & {"PYTHONPATH", "SEVLM_CACHE"} and found["HOME"] == str(tmp_path / "home")
    assert found["PATH"].startswith(str(tmp_path / "bin"))


# ---- lower bounds


def test_every_requirement_of_a_user_has_a_lower_bound():
    bounds = environments.requirements(SETTINGS)
    assert bounds[""].keys() >= {"torch", "numpy", "huggingface-hub"} and bounds["sampling"]["transformers"] == "5.0"
    with pytest.raises(environments.ReleaseError, match="'numpy<3' has no lower bound"):
        environments.requirements({"requirements": "torch>=2.10 numpy<3"})


@pytest.mark.parametrize(
    "version, bound, expected",
    [("2.10.0", "2.10", True), ("2.1.0", "2.10", False), ("3.13.1", "3.13.1", True), ("3.14.0", "3.13.1", False)],
)
def test_a_bound_is_reached_by_its_own_version(version, bound, expected):
    assert environments.reached(version, bound) is expected


def test_an_installation_that_is_not_the_lowest_is_refused():
    bounds = {"torch": "2.10", "numpy": "1.26", "tqdm": "4.66"}
    assert release.above_bounds({"torch": "2.10.0", "numpy": "2.3.1"}, bounds) == [
        "numpy is 2.3.1, expected 1.26",
        "tqdm is missing, expected 4.66",
    ]


def test_lower_bounds_in_an_environment_that_was_never_made(tmp_path, monkeypatch):
    monkeypatch.setattr(lowest, "unreachable", lambda python: [])
    monkeypatch.setattr(lowest, "WORK", tmp_path)
    with pytest.raises(environments.ReleaseError, match="without --keep"):
        lowest.main(["--keep"])


def test_a_bound_that_another_requirement_lifts_is_named(monkeypatch):
    "Here the resolver is not asked: it always says that the core's first requirement is one version higher."
    bounds = environments.requirements(SETTINGS)
    versions = {name: bound for extra in bounds.values() for name, bound in extra.items()} | {"torch": "99.0"}
    lines = "\n".join(f"{name}=={version}" for name, version in versions.items())
    monkeypatch.setattr(lowest, "uv", lambda *words, capture: lines)
    assert lowest.unreachable("3.11") == [f"core: torch>={bounds['']['torch']}, but 99.0 is the lowest to be had"]


def test_tools_of_the_tests_are_at_the_tested_versions():
    found = environments.pins_of(environments.tools_of_tests(ROOT))
    assert found.keys() >= {"pytest", "hypothesis", "nbdev"} and not found.keys() & {"numpy", "torch"}


def test_pins_are_read_with_normalised_names():
    lines = ["# of 2026", "Huggingface_Hub==2.4.0", "-e .", "torch==2.14.1; python_version > '3'", "numpy>=1"]
    assert environments.pins_of(lines) == {"huggingface-hub": "2.4.0", "torch": "2.14.1"}


def test_without_uv_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(environments.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(environments.ReleaseError, match="make setup"):
        environments.find_uv()


def test_a_command_that_fails_is_named_with_its_last_words():
    with pytest.raises(environments.ReleaseError, match=r"exit code 3:\n.*alas"):
        environments.run(sys.executable, "-c", "print('alas'); raise SystemExit(3)", capture=True)


# ---- audit and coverage

FAULT = {"id": "CVE-1", "fix_versions": ["2.1"], "aliases": [], "description": ""}
AUDITED = {"name": "a", "version": "1", "vulns": []}


@pytest.mark.parametrize(
    "entries, code",
    [
        ([AUDITED], 0),
        ([AUDITED, {"name": "b", "version": "2", "vulns": [FAULT]}], 1),
        ([AUDITED, {"name": "b", "skip_reason": "not found"}], 2),
    ],
)
def test_a_version_that_is_not_audited_never_counts_as_free_of_faults(entries, code, monkeypatch, capsys):
    monkeypatch.setattr(audit, "ask", lambda pins: {"dependencies": entries})
    assert audit.main(["a==1", "b==2"]) == code
    out, err = capsys.readouterr()
    assert ("CVE-1, mended in 2.1" in out) is (code == 1) and ("could not be audited: b (not found)" in err) is (
        code == 2
    )


@pytest.mark.parametrize("killed, code", [(None, 0), ("run", 1), ("combine", 1)])
def test_a_count_of_a_run_that_was_killed_is_none(killed, code, monkeypatch, tmp_path):
    monkeypatch.setattr(covered, "FOLDER", tmp_path / "coverage")
    monkeypatch.setattr(covered, "coverage", lambda *words: -9 if words[0] == killed else 0)
    assert covered.main(["--tests", "tests/test_vad.py"]) == code


def test_a_part_is_counted_by_the_names_of_pages_and_tests():
    assert covered.page_words("course/0*")[-4:] == ["--path", "nbs/course", "--file_glob", "0*"]
    assert covered.page_words("")[-1] == "1" and covered.pytest_words(["tests/test_vad.py"])[-1] == "tests/test_vad.py"

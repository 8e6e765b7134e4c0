"""`sevlm explore`: a page for this machine alone, behind a token, that ends when it is told to."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sevlm.app.serve import (
    HOST,
    LARGEST_UPLOAD,
    Page,
    check_page,
    free_port,
    show_page,
    with_full_paths,
    write_folder,
)
from sevlm.cli import main
from sevlm.errors import ConfigError
from sevlm.utils import asset

LONGEST = 120  # seconds for a server to begin or to end, on a busy machine


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args, **kw):
        return None


def answer(address, follow=True):
    "Status, text and final address."
    opener = urllib.request.build_opener(*([] if follow else [_Stay]))
    try:
        with opener.open(address, timeout=LONGEST) as reply:
            return reply.status, reply.read().decode(), reply.geturl()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(), address


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "A server, its address, and its folder for temporary files; in `browser.txt` there is what a browser was given."
    pytest.importorskip("voila")
    place = tmp_path_factory.mktemp("tmp")
    browser = place / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {place}/browser.txt\n', encoding="utf-8")
    browser.chmod(0o700)
    command = [sys.executable, "-m", "sevlm", "explore", "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(place), "BROWSER": f"{browser} %s"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    try:
        address = process.stdout.readline().strip()
        assert address, process.stderr.read()
        yield process, address, place
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_the_address_is_of_this_machine_and_has_a_token(server):
    found = re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=([\w-]{20,})", server[1])
    assert found and HOST == "127.0.0.1"


def test_a_browser_is_given_a_file_and_not_the_token(server):
    "Every user of the machine can read its command line."
    _, address, place = server
    end = time.monotonic() + LONGEST
    while not (place / "browser.txt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    given = (place / "browser.txt").read_text(encoding="utf-8")
    assert given.startswith("file:///") and address.split("token=")[1] not in given
    file = Path(urllib.request.url2pathname(given.removeprefix("file://")))
    assert f'url={address}"' in file.read_text(encoding="utf-8") and file.stat().st_mode & 0o777 == 0o600


def test_without_the_token_nothing_is_shown(server):
    bare = server[1].split("?")[0]
    status, text, _ = answer(bare, follow=False)
    assert status in (302, 403) and "sevlm" not in text
    for path in ("?token=wrong", "voila/files/sevlm-explorer.ipynb", "api/kernels/0-0-0-0-0"):
        status, text, final = answer(bare + path)
        assert status in (403, 404) or "/login" in final, path
        assert "show_page" not in text, path


def test_with_the_token_the_page_is_made_by_a_kernel_and_asks_no_other_server(server):
    status, text, _ = answer(server[1])
    assert status == 200 and "jupyter-config-data" in text
    loaded = re.findall(r'<(?:script|link|img)[^>]*\s(?:src|href)="(https?://[^"]+)"', text)
    assert not loaded, loaded
    assert "application/vnd.jupyter.widget-view+json" in text and "Traceback" not in text


def test_a_taken_port_is_told(server, capsys):
    port = re.search(r":(\d+)/", server[1])[1]
    assert main(["explore", "--port", port, "--no-browser"]) == 2
    assert f"port {port} of this machine cannot be used" in capsys.readouterr().err


def test_it_ends_by_interrupt_and_leaves_nothing(server):
    process, address, place = server
    assert list(place.glob("sevlm-explore-*"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 0 and "Traceback" not in out + err and "Ctrl-C ends it" in err
    assert not list(place.glob("sevlm-explore-*"))
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=5)


def test_ports():
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(ConfigError, match="--port 0"):
            free_port(other.getsockname()[1])
    assert 0 < free_port(0) < 2**16
    for wrong in (-1, 2**16):
        with pytest.raises(ConfigError, match="65535"):
            free_port(wrong)


@pytest.mark.parametrize("option", ["--checkpoint", "--compare"])
def test_what_is_no_checkpoint_is_told_before_anything_is_served(option, tmp_path, capsys):
    assert main(["explore", option, str(tmp_path), "--port", "0", "--no-browser"]) == 2
    told = capsys.readouterr()
    assert f"no checkpoint in {tmp_path}" in told.err and not told.out


def test_what_would_not_be_used_or_is_not_there_is_told(tmp_path, capsys):
    for options, words in ((["--device", "cuda:99"], "not available"), (["--lexicon", "x.txt"], "--checkpoint")):
        assert main(["explore", *options, "--port", "0", "--no-browser"]) == 2
        told = capsys.readouterr()
        assert words in told.err and not told.out


def test_paths_are_those_of_the_folder_it_was_started_in(tmp_path, monkeypatch):
    "The kernel starts in another one."
    (tmp_path / "runs").mkdir()
    shutil.copytree(asset("mini"), tmp_path / "runs" / "mine")
    (tmp_path / "words.txt").write_text("sea\t0.5\t0.5\t0.5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    page = Page("runs/mine", "jing5566/SEVLM", "words.txt", "cpu")
    check_page(replace(page, compare=None, lexicon=None))
    found = with_full_paths(page)
    monkeypatch.chdir("/")
    assert Path(found.checkpoint) == tmp_path / "runs" / "mine" and found.compare == page.compare
    assert Path(found.lexicon) == tmp_path / "words.txt" and found.device == "cpu"
    pytest.importorskip("anywidget")
    widget = show_page(json.dumps(asdict(replace(found, compare=None, lexicon=None))))
    assert "sevlm-explorer" in widget._dom_classes


@pytest.mark.parametrize("package", ["voila", "anywidget"])
def test_a_missing_package_is_told(package, monkeypatch, capsys):
    from sevlm import errors

    there = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == package else there(name))
    assert main(["explore", "--port", "0", "--no-browser"]) == 2
    assert f"{package} is needed here and is not installed: pip install 'sevlm[explore]'" in capsys.readouterr().err


def test_a_path_is_data_in_the_notebook(tmp_path):
    "Whatever a path is called, it is a text of the one line that runs."
    page = Page(checkpoint="\"]'); import os #\n", device="cpu")
    notebook = json.loads(write_folder(tmp_path, page).read_text(encoding="utf-8"))
    code = notebook["cells"][0]["source"]
    called = []
    exec(code.replace("from sevlm.app.serve import show_page", ""), {"show_page": called.append})
    assert [Page(**json.loads(text)) for text in called] == [page]
    kernel = json.loads((tmp_path / "share" / "kernels" / "sevlm" / "kernel.json").read_text(encoding="utf-8"))
    assert kernel["argv"][0] == sys.executable


def test_what_cannot_be_loaded_later_is_said_on_the_page(tmp_path):
    pytest.importorskip("anywidget")
    widget = show_page(json.dumps(asdict(Page(checkpoint=str(tmp_path), device="cpu"))))
    assert "no checkpoint in" in widget.value and "Not done" in widget.value
    assert "sevlm-explorer" in show_page(json.dumps(asdict(Page(device="cpu"))))._dom_classes


def test_a_photograph_in_full_size_fits_into_a_message():
    assert LARGEST_UPLOAD > 200e6  # a JPEG of 100 million pixels with little compression

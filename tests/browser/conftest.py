"""A real browser for the tests in this folder, and something for it to look at.

The tests of a file share a browser, all tests one JupyterLab. Each test gets a page of its own, which notes what went
wrong in it; pictures and the seconds of each step are left in `build/browser`.

Tests of other things need a small file each: `serve_folder` for pages that only have to be served, `serve_command` for
a program that serves them itself.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex

import pytest
from lab import ANSWERED, ROOT, Lab, Watch

PICTURES = ROOT / "build" / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STARTED_WITHIN = 60  # seconds that a server may need before it answers: a busy machine
ENDED_WITHIN = 15  # seconds between SIGTERM and SIGKILL
VIEW = {"width": 1280, "height": 1300}  # pixels of the window: narrow as a laptop, and high, so that a play fits
ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+\S*")  # that a program prints
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy between this machine and itself
COPIED = ("nbs", "figures", "docs", "tests/gpt2_bpe", "tests/golden")  # pages, and what they name by a relative path


# the browser


def find_browser() -> str | None:
    "The program: the one that SEVLM_BROWSER names, or the first that is installed."
    if named := os.environ.get("SEVLM_BROWSER"):
        if not (found := shutil.which(named)):
            pytest.fail(f"SEVLM_BROWSER is {named!r}, and no such program is there")
        return found
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def program():
    "Of Chromium or Chrome. Without one, every test that asks for it is skipped and counted."
    program = find_browser()
    if program is None:
        pytest.skip(
            "no browser is installed; as root: apt-get install --no-install-recommends chromium fonts-dejavu-core "
            "(or set SEVLM_BROWSER to the program of a Chromium or Chrome)"
        )
    return program


@pytest.fixture(scope="module")  # while Playwright runs, no test of another folder could run an event loop
def browser(program):
    "The browser itself."
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; run: make setup")
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(
            executable_path=program,
            chromium_sandbox=False,  # it cannot be had by root or in many containers; only own pages are opened
            args=[
                "--disable-dev-shm-usage",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            ],
        )
        yield started
        started.close()


@pytest.fixture
def watch(browser, request):
    "A page and all that went wrong in it; whatever did fails the test at its end."
    context = browser.new_context(viewport=VIEW)
    context.set_default_timeout(1000 * ANSWERED)
    watch = Watch(context.new_page(), picture_of(request.node.name))
    yield watch
    if not watch.page.is_closed():
        watch.shoot()
    context.close()
    assert not watch.problems, "\n".join(watch.problems)


@pytest.fixture
def page(watch):
    "The page alone."
    return watch.page


def picture_of(test: str) -> Path:
    "Where the picture of a test goes."
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES / (re.sub(r"\W+", "-", test).strip("-") + ".png")


# what it looks at


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def running(command: list, folder: Path, log: Path, **env: str):
    "A program, and the file of what it says; ended by SIGTERM, since a program started by a script may ignore SIGINT."
    with log.open("wb") as said:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(ENDED_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(found, process: subprocess.Popen, log: Path):
    "The first true answer of a function. Fails with the program's last words if it has ended, or is too late."
    end = time.monotonic() + STARTED_WITHIN
    while not (answer := found()):
        if process.poll() is not None or time.monotonic() > end:
            why = f"ended with {process.returncode}" if process.returncode is not None else "has not answered"
            pytest.fail(f"{process.args[:3]} {why}:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
        time.sleep(0.1)
    return answer


def answers(url: str) -> bool:
    "Whether a server answers at an address, with whatever status."
    try:
        LOCAL.open(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def serve_folder():
    "A function: the address under which the files of a folder are served, until the module's tests are done."
    servers = []

    def serve(folder: Path) -> str:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *words):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def serve_command(tmp_path_factory):
    """A function: starts a command that serves a page and prints its address (with a token, if it has one), and gives
    that address; the program is ended when the module's tests are done."""
    with ExitStack() as stack:

        def serve(*command, folder: Path = ROOT, **env: str) -> str:
            log = tmp_path_factory.mktemp("served") / "log"
            process = stack.enter_context(running(list(command), folder, log, **env))
            url = wait_for(lambda: ADDRESS.search(log.read_text("utf-8", "replace")), process, log)[0]
            wait_for(lambda: answers(url), process, log)
            return url

        yield serve


@pytest.fixture(scope="session")
def lab_server(program, tmp_path_factory):
    "JupyterLab on copies of the pages, with settings of its own: the user's home is neither read nor written."
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed; run: make setup")
    root, home = tmp_path_factory.mktemp("pages"), tmp_path_factory.mktemp("jupyter")
    for name in COPIED:  # Lab saves what it shows, outputs and all
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # else it asks
        "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not there
    }
    for name, values in settings.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    env = {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTER_PATH": "",
        "IPYTHONDIR": str(home / "ipython"),
        "SEVLM_FIGURES": "",
    }
    port, token = free_port(), token_hex(16)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": root,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,  # the tests give commands to `jupyterapp`
        "LabApp.extension_manager": "readonly",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log, url = home / "log", f"http://127.0.0.1:{port}"
    with running(command, root, log, **env) as process:
        wait_for(lambda: answers(f"{url}/api"), process, log)
        yield url, token
    shutil.copy(log, PICTURES / "lab.log")


@pytest.fixture
def kernels(lab_server):
    "Ends the kernels that a test leaves behind, after its page was closed: the next one has the memory."
    yield
    url, token = lab_server

    def ask(path: str, method: str = "GET") -> bytes:
        request = urllib.request.Request(url + path, method=method, headers={"Authorization": f"token {token}"})
        with LOCAL.open(request, timeout=STARTED_WITHIN) as answer:
            return answer.read()

    for session in json.loads(ask("/api/sessions")):
        ask(f"/api/sessions/{session['id']}", "DELETE")


@pytest.fixture
def lab(kernels, lab_server, watch, step):
    "JupyterLab in a page of its own; `lab.open(name)` opens a notebook."
    return Lab(watch, *lab_server, step)


# seconds


STEPS: list[dict] = []


@pytest.fixture
def step(request):
    "A context that notes how long a step of the test takes."

    @contextmanager
    def measured(what: str):
        begin = time.perf_counter()
        yield
        STEPS.append(dict(test=request.node.name, step=what, seconds=round(time.perf_counter() - begin, 2)))

    return measured


def pytest_terminal_summary(terminalreporter):
    "The seconds of each step, as a table; no test asks how many they are."
    if not STEPS:
        return
    (PICTURES / "steps.json").write_text(json.dumps(STEPS, indent=1) + "\n", encoding="utf-8")
    terminalreporter.section("seconds of the browser")
    for s in STEPS:
        terminalreporter.write_line(f"{s['seconds']:8.2f}  {s['test']}: {s['step']}")
    terminalreporter.write_line(f"pictures: {PICTURES.relative_to(ROOT)}/")

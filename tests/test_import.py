"""Importing sevlm: no network, no writers' tools, no reading of files beyond Python's own import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sevlm

PACKAGE = Path(sevlm.__file__).resolve().parent
SUBMODULES = sorted(
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py") if not p.stem.startswith("_")
)

PROBE = r"""
import json, os, socket, sys, importlib
RealSocket = socket.socket
attempts, opened, watching = [], [], [False]
class NoSocket(RealSocket):  # a class, since other libraries inherit from it
    def __init__(self, *args, **kwargs):
        attempts.append('socket')
        raise OSError('the network is blocked in this test')
socket.socket = NoSocket
def hook(event, args):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname'):
        attempts.append(event)
        raise OSError('the network is blocked in this test')
    if watching[0] and event == 'open': opened.append(str(args[0]))
sys.addaudithook(hook)
sys.path.insert(0, sys.argv[1])
watching[0] = True
import sevlm
watching[0] = False
after_package = sorted(sys.modules)
failed = {}
for name in sys.argv[2].split(','):
    if not name: continue
    try: importlib.import_module(f'sevlm.{name}')
    except BaseException as err: failed[name] = repr(err)
print('RESULT' + json.dumps(dict(
    failed=failed, opened=opened, attempts=attempts, modules=sorted(sys.modules), after_package=after_package,
    prefixes=[os.path.realpath(p) for p in {sys.prefix, sys.base_prefix, sys.exec_prefix}], file=sevlm.__file__)))
"""


def probe(names):
    run = subprocess.run(
        [sys.executable, "-B", "-c", PROBE, str(PACKAGE.parent), ",".join(names)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
    assert run.returncode == 0 and lines, run.stderr[-3000:]
    return json.loads(lines[-1][len("RESULT") :])


@pytest.fixture(scope="module")
def everything():
    return probe(SUBMODULES)


def test_every_module_imports_without_network(everything):
    assert Path(everything["file"]).resolve().parent == PACKAGE
    assert not everything["failed"]
    assert {f"sevlm.{m}" for m in SUBMODULES} <= set(everything["modules"])


def test_import_does_not_try_the_network(everything):
    tried = [
        a for a in everything["attempts"] if a != "socket"
    ]  # making a socket, e.g. to look for IPv6, is not using it
    assert not tried


def test_writers_tools_and_heavy_extras_are_not_imported(everything):
    top = {m.split(".")[0] for m in everything["modules"]}
    assert not top & {"nbdev", "fastcore", "execnb"}
    assert not top & {"pycocoevalcap", "lemminflect"}, "these belong inside the functions that need them"


def test_the_package_alone_is_light_and_opens_nothing_of_its_own(everything):
    roots = [Path(p) for p in everything["prefixes"]] + [PACKAGE]
    for name in everything["opened"]:
        path = Path(name).resolve() if name else Path()
        below = any(root == path or root in path.parents for root in roots)
        assert below and (path.is_dir() or path.suffix in (".py", ".pyc", ".so", ".pyd")), f"import sevlm opened {name}"
    assert not {"torch", "transformers", "matplotlib", "pandas"} & set(everything["after_package"])


def test_texts_and_pictures_need_no_large_library():
    "One sentence with the shipped model is written without what takes seconds to import."
    modules = set(probe(["models.tokenizer", "models.vision"])["modules"])
    assert not modules & {
        "transformers",
        "open_clip",
        "torchvision",
        "timm",
        "pandas",
        "sklearn",
        "scipy",
        "matplotlib",
    }

"""Only the project's own errors come out, with exit code 2 and the path: full disks, closed and narrow outputs, memory
that runs out, files with wrong types, two runs in one folder, and what killed runs leave behind."""

import ast
import errno
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import psutil
import pytest
import torch
from fuzz.kinds import seeds_of

import sevlm
from sevlm import cli
from sevlm.artemis.folder import open_data
from sevlm.cli import main
from sevlm.config import SEVLMConfig
from sevlm.errors import CheckpointError, ConfigError, DataError, SevlmError, WriteError
from sevlm.models.explainer import load
from sevlm.studies.evaluate import read_scores
from sevlm.synthetic.dataset import make_mini, read_truth
from sevlm.training.run import chosen_before, claim_folder
from sevlm.utils import read_object, resolve_device, temporary_beside, working_in, write_atomic, write_json

ROOT = Path(sevlm.__file__).parent.parent
PATIENCE = 60  # seconds until a process counts as one that hangs


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return seeds_of(tmp_path_factory)


@pytest.fixture(scope="module")
def evaluated(seeds, tmp_path_factory):
    "Two evaluations of the tiny model."
    folders = [tmp_path_factory.mktemp("evaluated") / name for name in "ab"]
    for folder in folders:
        assert quietly(evaluate(seeds, folder))[0] == 0
    return folders


def evaluate(seeds, out):
    data, run = seeds / "data" / "v1", seeds / "run" / "last"
    return ["evaluate", data, "--checkpoint", run, "--no-meteor", "--threads", 1, "--quiet", "--out", out]


def quietly(argv):
    "Exit code and messages of a command in this process."
    err = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(err):
        code = main(list(map(str, argv)))
    return code, err.getvalue()


def python(program, **how):
    "A real process that runs a program."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=env | how.pop("env", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        **how,
    )


def shell(line, **env):
    "A line of the shell, in which `sevlm` is the command: exit code, output, errors."
    text = line.replace("sevlm", f"'{sys.executable}' -m sevlm", 1)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    p = subprocess.run(["bash", "-c", text], env=env, capture_output=True, encoding="utf-8", errors="surrogateescape")
    return p.returncode, p.stdout, p.stderr


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.name != ".lock")


# ---- full disks


def with_little_room(argv, room):
    "Exit code and messages of a command that may write so many bytes into each file, in a process of its own."

    def run(end):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        end.send(quietly(argv))

    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=run, args=(there,))
    process.start()
    there.close()  # so that the end of the process ends the wait
    try:
        assert here.poll(PATIENCE), "it hangs"
        answer = here.recv()
        process.join(PATIENCE)
        return answer
    finally:
        process.kill()
        process.join()


def commands(seeds, evaluated, out):
    "Command -> its arguments, and the bytes of a file that are too few for it."
    data, release = seeds / "data" / "v1", seeds / "mini" / "artemis_dataset_release_v0.csv"
    tiny = ["--preset", "tiny", "--threads", 1, "--quiet"]
    return {
        "mini": (["mini", out, "--paintings", 2, "--workers", 1, "--quiet"], 500),
        "mini in processes": (["mini", out, "--paintings", 2, "--workers", 2, "--quiet"], 500),
        "prepare": (
            ["prepare", "--artemis", release, "--wikiart", seeds / "mini/wikiart", "--out", out, "--quiet"],
            999,
        ),
        "train": (["train", data, "--out", out, *tiny, "--features", "memory"], 60_000),
        "listener": (["listener", data, "--min-count", 1, "--threads", 1, "--out", out, "--quiet"], 300),
        "evaluate": (evaluate(seeds, out), 300),
        "compare": (["compare", *evaluated, "--data", data, "--no-meteor", "--quiet", "--out", out], 100),
        "ablate": (["ablate", data, "--out", out, "--seeds", 1, *tiny], 300),
        "demo": (["demo", "--paintings", 2, "--out", out, "--data", out / "data", "--threads", 1, "--quiet"], 300),
    }


NAMES = ("mini", "mini in processes", "prepare", "train", "listener", "evaluate", "compare", "ablate", "demo")


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(seeds, evaluated, tmp_path, name):
    argv, room = commands(seeds, evaluated, tmp_path / "out")[name]
    code, err = with_little_room(argv, room)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("sevlm: cannot write ") and str(tmp_path) in last, err
    assert "File too large" in last and "What was saved before is whole" in last
    assert not [f for f in files_below(tmp_path) if ".tmp-" in f]


def test_a_mounted_disk_that_is_full(seeds, tmp_path):
    "A real one, where this may be mounted; a run that was saved there before goes on to be usable."
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    try:
        shutil.copytree(seeds / "run" / "last", disk / "run" / "last")
        (disk / "filler").write_bytes(bytes(3 * 2**20 - 1_300_000))
        data = seeds / "data" / "v1"
        code, err = quietly(["train", data, "--out", disk / "run", "--preset", "tiny", "--threads", 1, "--quiet"])
        last = err.strip().splitlines()[-1]
        assert code == 2 and last.startswith("sevlm: cannot write ") and str(disk) in last, err
        saved, before = (load(run, device="cpu").model.config for run in (disk / "run", seeds / "run"))
        assert saved.replace(tower_pretrained="") == before.replace(tower_pretrained="")  # each has its tower beside it
        assert not [f for f in files_below(disk) if ".tmp-" in f]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("encoder error -2 when writing image file"), "encoder error -2"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "full disk"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "full disk"),
    ],
)
def test_failures_to_write_are_one_error(tmp_path, error, words):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(WriteError, match=words) as raised, write_atomic(tmp_path / "a.json") as tmp:
        tmp.write_text("{", encoding="utf-8")
        raise error
    assert str(tmp_path / "a.json") in str(raised.value) and files_below(tmp_path) == ["a.json"]
    assert read_object(tmp_path / "a.json") == {"old": 1}
    again = multiprocessing.reduction.ForkingPickler.loads(multiprocessing.reduction.ForkingPickler.dumps(raised.value))
    assert str(again) == str(raised.value)  # it comes out of a process of a pool as it is


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), write_atomic(tmp_path / "a"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(CheckpointError), write_atomic(tmp_path / "a"):
        raise CheckpointError("x")


# ---- the output


def test_closed_and_full_outputs():
    for what in ("--help >&-", "--version >&- 2>&-", "mini --help <&- >&- 2>&-"):
        assert shell(f"sevlm {what}") == (0, "", "")
    assert shell("sevlm inspect nothing >&- 2>&-") == (2, "", "")
    for what in ("--version", "--help", "lexicon --help"):
        code, _, err = shell(f"sevlm {what} > /dev/full")
        assert code == 2 and "cannot write the standard output (No space" in err, err
        assert "Traceback" not in err and "Exception ignored" not in err
    assert shell("sevlm nothing 2> /dev/full")[0] == 2
    code, out, err = shell("sevlm --help | head -1")
    assert (code, out.count("\n"), err) == (0, 1, "")


def test_a_file_that_is_closed_output_is_not_written_into(tmp_path):
    "Where standard output is closed, the next file that is opened would take its number."
    (tmp_path / "a.txt").write_text("sea\t0.5\t0.5\t0.5\nwar\t0.1\t0.9\t0.6\n", encoding="utf-8")
    before = (tmp_path / "a.txt").read_bytes()
    assert shell(f"sevlm inspect '{tmp_path}/a.txt' >&-") == (0, "", "")
    assert (tmp_path / "a.txt").read_bytes() == before


@pytest.fixture
def odd_pictures(seeds, tmp_path):
    "Names that cause trouble."
    source = next((seeds / "mini" / "wikiart").rglob("*.jpg"))
    for name in ("rené.jpg", "two\nlines.jpg", " spaces .jpg", "-dash.jpg", "山水.jpg"):
        shutil.copy(source, tmp_path / name)
    shutil.copy(source, os.fsencode(tmp_path) + b"/caf\xe9.jpg")  # no UTF-8
    return tmp_path


def test_narrow_outputs_odd_names_and_no_home(seeds, odd_pictures, tmp_path_factory):
    "An output of ASCII, a strict one, a pure C locale, a home that is a file: every picture is explained."
    home = tmp_path_factory.mktemp("home") / "file"
    home.write_text("", encoding="utf-8")
    line = f"cd '{odd_pictures}' && sevlm explain --checkpoint '{seeds / 'run'}' --threads 1"
    nowhere = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "SEVLM_CACHE": str(home / "sevlm")}
    code, out, err = shell(f"{line} .", PYTHONIOENCODING="ascii:strict", **nowhere)
    assert code == 0 and out.count(" because ") == 6 and "ren\\xe9.jpg" in out, err
    code, out, err = shell(f"{line} --json -- -dash.jpg .", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert code == 0 and len(answers := json.loads(out)) == 7 and answers[0]["image"] == "-dash.jpg", err


def test_a_locale_that_cannot_name_a_file():
    "Told with what to set; the file would otherwise count as missing."
    program = "import sevlm.cli as c\ntry: open('\\xe9')\nexcept UnicodeEncodeError as e: print(c._mendable(e))"
    p = python(program, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    out, err = p.communicate(timeout=PATIENCE)
    assert "LC_ALL=C.UTF-8" in out and "'\\xe9'" in out, err


# ---- memory, defects


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_runs_out(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "inspect_path", fail)
    code, err = quietly(["inspect", "x"])
    assert code == 2 and err.startswith("sevlm: memory ran out") and "pool=2" in err


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail(*_):
        raise KeyError("a defect")

    monkeypatch.setattr(cli, "inspect_path", fail)
    with pytest.raises(KeyError):
        quietly(["inspect", "x"])
    p = python("import sevlm.cli as c, sevlm.__main__ as m\nc.main = lambda: {}['x']\nm.run()")
    _, err = p.communicate(timeout=PATIENCE)
    assert p.returncode == 70 and "Traceback" in err and "this is a defect of sevlm" in err.splitlines()[-1]
    assert "/issues" in err.splitlines()[-1]


@pytest.mark.parametrize("name", ["cuda:99", "", None, 300, "gpu", "cuda:-1", "meta", "xla", b"cpu", 1.5])
def test_devices_that_are_not_there(seeds, name):
    with pytest.raises(ConfigError, match="device"):
        resolve_device(name)
    with pytest.raises(ConfigError, match="device"):
        load(seeds / "run", device=name)


def test_a_device_that_is_not_there(seeds):
    for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if not there:
            with pytest.raises(ConfigError, match=f"device '{name}' is not available here"):
                sevlm.load(seeds / "run", device=name)


# ---- files with wrong types


JSONS = ["", "[", "[]", "3", "null", '"text"', "9" * 5000, "[" * 20_000, '{"a":' * 20_000, "\ufeff[1]", '{"a": NaN']


@pytest.mark.parametrize("text", JSONS, ids=range(len(JSONS)))
def test_what_is_no_json_object(tmp_path, text):
    "Every reader of a file of ours names it."
    for name in ("prepared.json", "run.json", "train.json", "mini.json", "metrics.json", "config.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.pt").write_bytes(b"")
    for error, read, name in (
        (DataError, lambda: open_data(tmp_path), "prepared.json"),
        (CheckpointError, lambda: claim_folder(tmp_path, {}, True), "run.json"),
        (CheckpointError, lambda: chosen_before(tmp_path), "train.json"),
        (DataError, lambda: make_mini(tmp_path, n=1), "mini.json"),
        (DataError, lambda: read_scores(tmp_path), "metrics.json"),
        (ConfigError, lambda: SEVLMConfig.load(tmp_path / "config.json"), "config.json"),
    ):
        with pytest.raises(error, match=re.escape(name)):
            read()


def test_fields_that_are_missing_or_of_another_type(seeds, tmp_path):
    prepared = json.loads((seeds / "data" / "v1" / "prepared.json").read_text(encoding="utf-8"))
    for change in (
        {"wikiart": 3},
        {"files": []},
        {"lexicon": "../secret.txt"},
        {"lexicon": "/etc/passwd"},
        {"data": None},
    ):
        write_json(tmp_path / "prepared.json", {**prepared, **change})
        with pytest.raises(DataError, match=next(iter(change))):
            open_data(tmp_path)
    write_json(tmp_path / "train.json", {"chosen": {"threads": "two"}})
    with pytest.raises(CheckpointError, match="threads is 'two'"):
        chosen_before(tmp_path)
    good = (seeds / "mini" / "mini_truth.csv").read_text(encoding="utf-8")
    for old, new in (("awe", "joy"), ("0.", "nan"), ("+", "\0"), ("subjects", '"subjects'), (",", ";")):
        (tmp_path / "mini_truth.csv").write_text(good.replace(old, new), encoding="utf-8")
        with pytest.raises(DataError, match="mini_truth.csv"):
            read_truth(tmp_path)


@pytest.mark.parametrize(
    "change", [{"vocab_size": 10**9}, {"layers": 10**5}, {"vad_hidden": 10**9}, {"image_size": 10**6}]
)
def test_no_memory_is_taken_for_what_a_file_does_not_hold(seeds, tmp_path, change):
    folder = Path(shutil.copytree(seeds / "run" / "last", tmp_path / "run"))
    config = read_object(folder / "config.json")
    write_json(folder / "config.json", {**config, **change})
    with pytest.raises(CheckpointError, match="config.json"):
        load(folder, device="cpu")


def test_a_state_of_another_kind(seeds, tmp_path):
    run = Path(shutil.copytree(seeds / "run", tmp_path / "run"))
    state = torch.load(run / "state" / "state.pt", weights_only=True)
    argv = ["train", seeds / "data" / "v1", "--out", run, "--preset", "tiny", "--set", "epochs=1"]
    argv += ["--features", "memory", "--threads", "1", "--quiet", "--resume"]
    for wrong in (
        {},
        [1],
        {**state, "weights": "../last/model.safetensors"},
        {**state, "rng": 3},
        {k: v for k, v in state.items() if k != "optimiser"},
        {**state, "optimiser": {"state": {}, "param_groups": []}},
    ):
        torch.save(wrong, run / "state" / "state.pt")
        code, err = quietly(argv)
        assert code == 2 and "no usable state in" in err and str(run) in err


# ---- two runs in one folder


HOLD = (
    "import time\nfrom sevlm.utils import working_in\nwith working_in({!r}): print('mine', flush=True); time.sleep(99)"
)


def test_two_commands_in_one_folder(seeds, evaluated, tmp_path):
    "The second is refused before it does anything; a killed first one frees the folder."
    out = tmp_path / "out"
    first = python(HOLD.format(str(out)))
    try:
        assert first.stdout.readline() == "mine\n"
        for name, (argv, _) in commands(seeds, evaluated, out).items():
            if not name.startswith("mini"):
                code, err = quietly(argv)
                assert code == 2 and f"another run is working in {out}" in err, name
        assert files_below(out) == []
    finally:
        first.kill()
        first.communicate()
    assert quietly(evaluate(seeds, out))[0] == 0 and (out / "metrics.json").is_file()


def test_a_folder_is_locked_once_and_freed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    with working_in(tmp_path), working_in(str(tmp_path)), working_in(tmp_path.name):
        pass
    with pytest.raises(KeyError), working_in(tmp_path):
        raise KeyError
    p = python(HOLD.format(str(tmp_path)))
    assert p.stdout.readline() == "mine\n"
    p.kill()
    p.communicate()


def test_the_same_synthetic_set_twice_at_once(tmp_path):
    program = "from sevlm.synthetic.dataset import make_mini\nmake_mini({!r}, n=12, size=16, workers=1, progress=False)"
    both = [python(program.format(str(tmp_path / "mini"))) for _ in range(2)]
    for p in both:
        _, err = p.communicate(timeout=PATIENCE)
        assert p.returncode == 0, err
    assert [p.name for p in tmp_path.iterdir()] == ["mini"] and len(list((tmp_path / "mini").rglob("*.jpg"))) == 12


# ---- what killed runs leave


def test_temporaries_of_a_killed_run_are_removed_by_the_next(tmp_path):
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom sevlm.utils import temporary_beside, write_atomic\n"
        "folder = Path({!r})\ntemporary_beside(folder / 'set').mkdir()\n"
        "with write_atomic(folder / 'a.json') as tmp:\n  tmp.write_text('half', encoding='utf-8')\n"
        "  os.kill(os.getpid(), 9)"
    )
    p = python(program.format(str(tmp_path)))
    p.communicate(timeout=PATIENCE)
    assert p.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2
    alive, foreign = temporary_beside(tmp_path / "b.json"), tmp_path / ".tmp-00000000-1-00000000.json"
    for path in (alive, foreign, tmp_path / ".tmp-mine.json"):
        path.write_text("", encoding="utf-8")
    write_json(tmp_path / "a.json", {})
    kept = {"a.json", alive.name, foreign.name, ".tmp-mine.json"}  # of a living process, another machine, a stranger
    assert {p.name for p in tmp_path.iterdir()} == kept


def test_another_users_leftover_and_lock(tmp_path, monkeypatch):
    "A leftover that may not be removed holds nothing up; a lock that may not be opened is said."
    import filelock

    def refuse(*args, **how):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("psutil.pid_exists", lambda pid: False)
    left = temporary_beside(tmp_path / "theirs.json")
    left.write_text("", encoding="utf-8")
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: refuse() if path == left else unlink(path, **how))
    write_json(tmp_path / "mine.json", {})
    assert left.exists() and (tmp_path / "mine.json").exists()
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(ConfigError, match="cannot lock .*Operation not permitted"), working_in(tmp_path):
        pass


WORKERS = {
    "mini": "from sevlm.synthetic.dataset import make_mini\n"
    "if __name__ == '__main__': make_mini({!r}, n=4_000, workers=2, progress=False)",
    "spawned": "import time\nfrom concurrent.futures import ProcessPoolExecutor\n"
    "from multiprocessing import get_context\n"
    "from sevlm.utils import end_with_parent\nif __name__ == '__main__':\n"
    "  with ProcessPoolExecutor(2, mp_context=get_context('spawn'), initializer=end_with_parent) as pool:\n"
    "    print({!r}, list(pool.map(time.sleep, [99, 99])))",
}


@pytest.mark.parametrize("way", WORKERS)
def test_workers_do_not_outlive_their_parent(tmp_path, way):
    program = tmp_path / "program.py"
    program.write_text(WORKERS[way].format(str(tmp_path / "mini")), encoding="utf-8")
    parent = subprocess.Popen([sys.executable, program], env={**os.environ, "PYTHONPATH": str(ROOT)})
    until, children = time.monotonic() + PATIENCE, []
    while len(children) < 2 and time.monotonic() < until:
        time.sleep(0.1)
        children = [c for c in psutil.Process(parent.pid).children() if "resource_tracker" not in "".join(c.cmdline())]
    time.sleep(1.0)  # into their work
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert len(children) == 2 and not alive


def test_a_process_ends_with_its_launcher():
    launcher = python(
        "import subprocess, sys\n"
        "worker = 'import time; from sevlm.utils import end_with_parent; end_with_parent(); print(1, flush=True)'\n"
        "worker += '; time.sleep(99)'\n"
        "print(subprocess.Popen([sys.executable, '-c', worker]).pid, flush=True); input()",
        stdin=subprocess.PIPE,
    )
    worker = psutil.Process(int(launcher.stdout.readline()))
    assert launcher.stdout.readline() == "1\n"
    launcher.kill()
    launcher.wait()
    assert psutil.wait_procs([worker], timeout=PATIENCE)[0]


# ---- contracts


def texts_without_encoding(source):
    "Lines in which a text file is read or written in the encoding of whatever machine it is."
    for call in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)):
        if {k.arg for k in call.keywords} & {"encoding", None}:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in ("read_text", "write_text") and len(call.args) < (1 if name == "read_text" else 2):
            yield call.lineno
        mode = call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else "r"
        if isinstance(call.func, ast.Name) and name == "open" and call.args and "b" not in str(mode):
            yield call.lineno


def test_every_text_file_has_its_encoding():
    assert list(texts_without_encoding("open(p)\nopen(p, 'w')\np.read_text()\np.write_text(t)")) == [1, 2, 3, 4]
    assert not list(texts_without_encoding("open(p, 'rb')\nopen(p, encoding='utf-8')\nx.open(p)\np.read_text('ascii')"))
    files = [
        *ROOT.glob("sevlm/**/*.py"),
        *ROOT.glob("tools/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("tests/**/*.py"),
    ]
    found = [f"{f.name}:{line}" for f in files for line in texts_without_encoding(f.read_text(encoding="utf-8"))]
    assert len(files) > 60 and not found


def test_every_pool_ends_with_its_parent():
    text = "".join(f.read_text(encoding="utf-8") for f in ROOT.glob("sevlm/**/*.py"))
    assert len(re.findall(r"ProcessPoolExecutor\(", text)) == 2
    begins = re.findall(r"initializer=(\w+)", text)
    own = [f"def {name}(" in text and "end_with_parent()\n" in text.split(f"def {name}(")[1][:200] for name in begins]
    assert len(begins) == 2 and all(name == "end_with_parent" or calls for name, calls in zip(begins, own))


def test_errors_are_a_family():
    assert issubclass(WriteError, SevlmError) and not issubclass(WriteError, OSError)

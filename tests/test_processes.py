"""One process or several: the same losses, one set of files, all leave together.

Run by accelerate's launcher, this file is the program of two processes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sevlm.config import EMOTIONS, SEVLMConfig
from sevlm.data.batches import PairBatches
from sevlm.data.paintings import Painting
from sevlm.errors import ConfigError, SevlmError
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import vad_table
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import train_bpe
from sevlm.training import distributed
from sevlm.training.distributed import (
    Processes,
    defer_interrupts,
    is_out_of_memory,
    record_interrupts,
    resolve_precision,
    rng_state,
    seed_process,
    set_rng_state,
    start_processes,
)
from sevlm.training.learner import (
    CB,
    BestCB,
    CheckpointCB,
    ClipCB,
    EarlyStopCB,
    Learner,
    MeterCB,
    RecorderCB,
    ValidateCB,
    linear_schedule,
    split_batch,
)
from sevlm.utils import seed_everything

SIZES = (7, 4, 1, 6)  # rows of the global batches; of one row, the second process gets none


@dataclass
class Numbers:
    ids: torch.Tensor  # [S, T], 0 = padding
    whole: dict = None
    idle: bool = False

    def to(self, device):
        return replace(self, ids=self.ids.to(device))

    @property
    def real(self):
        return (self.ids[:, 1:] > 0) & (not self.idle)

    @property
    def rare(self):
        return self.real & (self.ids[:, 1:] == 5)

    @property
    def counts(self):
        return dict(lm=int(self.real.sum()), vad=int(self.rare.sum()))

    def split(self, n):
        return [replace(self, ids=ids) for ids in self.ids.tensor_split(min(n, len(self.ids)))]


class Shares:
    def __init__(self, n=6):
        self.n, self.rank, self.count, self.epoch, self.start = n, 0, 1, 0, 0

    def __len__(self):
        return self.n

    def set_epoch(self, epoch, start=0):
        self.epoch, self.start = epoch, start

    def share(self, rank, count):
        self.rank, self.count = rank, count

    def __iter__(self):
        g = torch.Generator().manual_seed(self.epoch)
        for i in range(self.n):
            ids = torch.randint(1, 9, (SIZES[i % len(SIZES)], 6), generator=g)
            ids[torch.arange(6) >= torch.randint(2, 7, (len(ids), 1), generator=g)] = 0
            mine = ids.tensor_split(self.count)[self.rank]
            if i >= self.start:
                yield Numbers(mine if len(mine) else ids[:1], idle=not len(mine))


class Predictor(nn.Module):
    "Without a rare token in its share the second head is not reached at all."

    def __init__(self, dropout=0.0):
        super().__init__()
        self.body, self.words, self.rare = (
            nn.Sequential(nn.Embedding(9, 12), nn.Dropout(dropout)),
            nn.Linear(12, 9),
            nn.Linear(12, 1),
        )

    def forward(self, batch):
        hid, target, whole = self.body(batch.ids[:, :-1]), batch.ids[:, 1:], batch.whole or batch.counts
        lm = nn.functional.cross_entropy(
            self.words(hid)[batch.real].float(), target[batch.real], reduction="sum"
        ) / max(whole["lm"], 1)
        vad = (
            self.rare(hid)[batch.rare].float().pow(2).sum() / max(whole["vad"], 1)
            if batch.rare.any()
            else torch.zeros(())
        )
        return SimpleNamespace(losses=dict(lm=lm, vad=vad, total=lm + vad), counts=batch.counts)


class Strike(CB):
    def __init__(self, step, rank):
        self.step, self.rank = step, rank

    def after_loss(self, learner):
        if learner.step == self.step and learner.processes.rank == self.rank:
            raise KeyboardInterrupt


def make(
    *callbacks, processes=None, dropout=0.0, epochs=3, model=Predictor, optimiser=torch.optim.AdamW, lr=1e-2, **given
):
    seed_everything(0)
    model, batches = model(dropout), Shares()
    opt = optimiser(model.parameters(), lr=lr)
    return Learner(
        model,
        batches,
        opt,
        linear_schedule(opt, epochs * len(batches)),
        callbacks=[MeterCB(), RecorderCB(), ClipCB(1.0), *callbacks],
        processes=processes,
        **given,
    )


def record(learner):
    return dict(
        steps=learner.callbacks[1].steps,
        epochs=learner.callbacks[1].epochs,
        weights=torch.cat([p.detach().flatten() for p in learner.model.parameters()]).tolist(),
    )


def score(model):
    return dict(
        accuracy=0.5, norm=float(model.words.weight.norm()), where=os.environ.get("RANK", "0")
    )  # no gain after the first


def scenarios(here, folder):
    "What two processes do; a dictionary of results of each."
    found = dict(
        device=str(here.device),
        rank=here.rank,
        count=here.count,
        sent=here.broadcast(f"from {here.rank}"),
        gathered=here.gather(here.rank),
        numbers=here.gather([here.rank, 0.5]),
    )
    plain = make(CheckpointCB(folder / "plain"), processes=here).fit(3)
    found["plain"], found["is_plain"] = record(plain), type(plain.model).__name__
    found["parts"] = record(make(processes=here, accumulate=3).fit(3))
    whole = make(processes=here, dropout=0.3).fit(2)
    broken = make(Strike(5, rank=1), CheckpointCB(folder / "broken"), processes=here, dropout=0.3).fit(2)
    later = make(CheckpointCB(folder / "broken"), processes=here, dropout=0.3).resume(folder / "broken").fit(2)
    found["broken"] = [broken.interrupted, broken.step, record(later) == record(whole)]
    found["drawn"] = here.gather(masks(here))
    watched = make(
        ValidateCB(score, 2),
        BestCB("accuracy", folder / "best", lambda m, f: found.setdefault("saved_by", []).append(here.rank)),
        stop := EarlyStopCB(["accuracy"], 2),
        processes=here,
        epochs=9,
    ).fit(9)
    found["watched"] = [watched.stopped, watched.step, watched.metrics, stop.since]
    found["half"] = half(here)
    for name, fn in dict(failed=lambda: 1 / 0, struck=strike).items():
        try:
            here.from_main(fn)
        except BaseException as e:
            found[name] = f"{type(e).__name__}: {e}"
    try:
        make(processes=here, model=Crowded).fit(1)
    except SevlmError as e:
        found["crowded"] = str(e)
    found["sevlm"], found["looked"] = sevlm(here), looked(here)
    found["taken_up"] = record(make(processes=here).resume(folder / "one").fit(3))
    return found


def looked(here, folder=None):
    "Rows of an unequal number, gathered; a gradient that only one process has, and one that none has."
    mine = [torch.arange(2.0 * n).view(n, 2) + 10 * n for n in (3, 0)]
    rows, first = here.gather_rows(mine[here.rank] if here.count > 1 else torch.cat(mine))
    used, unused, shared = (nn.Parameter(torch.ones(2)) for _ in range(3))
    if here.main:
        used.grad = torch.tensor([1.0, 2.0])
    shared.grad = torch.tensor([3.0, 4.0]) / here.count
    here.sum_gradients([used, unused, shared])
    return [rows.tolist(), first, used.grad.tolist(), unused.grad, shared.grad.tolist()]


def sevlm(here, folder=None, parts=1):
    "A few steps of the real model on eleven paintings: batches of 5, 5 and 1, negatives from the whole batch."
    emotions = [EMOTIONS[i : i + 3] for i in range(7)] * 2
    paintings = [
        Painting("Realism", f"p{i}", e, tuple(f"the {x} sky of p{i}" for x in e), e)
        for i, e in enumerate(emotions[:11])
    ]
    tokenizer, config = (
        train_bpe([x for p in paintings for x in p.explanations], 304),
        SEVLMConfig.preset("tiny", dropout=0.0),
    )
    table = vad_table(tokenizer, Lexicon({"awe": (0.4, 0.3, 0.1), "sky": (0.2, 0, 0)}))
    seed_everything(0)
    grids = torch.randn(11, 16, 48)
    model = SEVLM(config.replace(vocab_size=len(tokenizer)))
    batches = PairBatches(paintings, tokenizer, table, config, batch_size=5, grids=grids).share(here.rank, here.count)
    for p in model.encoder.parameters():
        p.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(trained, lr=1e-3, eps=1e-4)  # so large that a gradient that is rounding moves no weight
    learner = Learner(model, batches, opt, callbacks=[MeterCB(), RecorderCB()], processes=here, accumulate=parts).fit(3)
    return learner.callbacks[1].steps


def strike():
    raise KeyboardInterrupt


def masks(here):
    class Watch(CB):
        def after_loss(self, learner):
            self.seen = torch.rand(()).item()

    make(watch := Watch(), processes=here, dropout=0.3, epochs=1).fit(1)
    return watch.seen


class Half(Predictor):
    "Computes in float16 on a processor."

    def forward(self, batch):
        with torch.autocast("cpu", torch.float16):
            return super().forward(batch)


class Scale(CB):
    "A gradient scaler, as accelerate gives a GPU that computes in float16."

    def before_fit(self, learner):
        learner.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)


def half(here=None):
    learner = make(Scale(), processes=here, model=Half).fit(3)
    return [learner.skipped, learner.scaler.get_scale(), learner.losses["lm"]]


class Crowded(Predictor):
    "No more than three rows, and no step may be taken back."

    def forward(self, batch):
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(batch)


def program(name, folder):
    folder = Path(folder)
    with start_processes("cpu") as here:
        if name == "wait":
            slow = SimpleNamespace(keeps=(), after_step=lambda learner: time.sleep(0.02))
            learner = make(CheckpointCB(folder / "state", every=5), slow, processes=here, epochs=400).fit(400)
            (folder / f"left-{here.rank}").write_text(json.dumps([learner.interrupted, learner.step]), encoding="utf-8")
        else:
            (folder / f"found-{here.rank}.json").write_text(json.dumps(globals()[name](here, folder)), encoding="utf-8")


def launch(name, folder, *options, **given):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder)}
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        "--main_process_port=0",
        *options,
        __file__,
        name,
        str(folder),
    ]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    make(CheckpointCB(folder / "one"), Strike(7, 0), epochs=3).fit(
        3
    )  # broken off by one process, to be taken up by two
    p = launch("scenarios", folder)
    try:
        out, err = p.communicate(timeout=240)
    finally:
        p.kill()
    assert p.returncode == 0, err[-3000:]
    return SimpleNamespace(
        folder=folder,
        out=out,
        err=err,
        main=json.loads((folder / "found-0.json").read_text(encoding="utf-8")),
        other=json.loads((folder / "found-1.json").read_text(encoding="utf-8")),
    )


def close(a, b, atol=2e-5):
    assert len(a["steps"]) == len(b["steps"]) and a["steps"][0].keys() == b["steps"][0].keys()
    for table in ("steps", "epochs"):
        for x, y in zip(a[table], b[table]):
            assert np.allclose(list(x.values()), list(y.values()), atol=atol), (x, y)
    assert np.allclose(a["weights"], b["weights"], atol=5 * atol)


def test_two_processes_know_each_other(two):
    assert (two.main["rank"], two.main["count"], two.main["device"][:3], two.other["rank"]) == (0, 2, "cpu", 1)
    for found in (two.main, two.other):
        assert found["sent"] == "from 0" and found["gathered"] == [0, 1] and found["numbers"] == [[0, 0.5], [1, 0.5]]


def test_two_processes_have_the_losses_of_one(two):
    alone = record(make().fit(3))
    for name in ("plain", "parts"):
        close(alone, two.main[name])
        assert two.main[name] == two.other[name]  # to the last bit: they make the same updates
    assert two.main["is_plain"] == "Predictor" and any(row["vad"] > 0 for row in alone["steps"])


def test_resumed_by_another_number_of_processes(two):
    alone = record(make().fit(3))
    close(alone, two.main["taken_up"])  # begun by one, ended by two
    later = make(epochs=6).resume(two.folder / "plain")  # begun by two, ended by one
    assert later.step == 18 and later.fit(4).step == 24


def test_interrupted_by_one_all_leave_and_go_on_to_the_last_bit(two):
    assert two.main["broken"] == two.other["broken"] == [True, 6, True]  # the step in hand is completed
    assert two.out.count("Interrupted after step") == 1  # and told once
    assert len(set(two.main["drawn"])) == 2


def test_one_validates_and_all_decide_alike(two):
    assert two.main["watched"] == two.other["watched"]
    stopped, step, metrics, since = two.main["watched"]
    assert (stopped, step, since, metrics["where"]) == (True, 6, 2, "0")
    assert set(two.main["saved_by"]) == {0} and "saved_by" not in two.other


def test_rows_are_gathered_and_gradients_summed(two):
    alone = looked(Processes())
    assert two.main["looked"] == alone and two.other["looked"] == [alone[0], 3, *alone[2:]]
    assert alone[2:] == [[1.0, 2.0], None, [3.0, 4.0]]


def test_the_real_model(two):
    assert two.main["sevlm"] == two.other["sevlm"]
    alone = sevlm(Processes())
    assert len(alone) == 9 and alone[0].keys() == two.main["sevlm"][0].keys() >= {"lm", "vad", "con", "total"}
    for x, y in zip(alone, two.main["sevlm"]):
        assert np.allclose(list(x.values()), list(y.values()), atol=1e-4), (x, y)


def test_overflow_is_skipped_by_both(two):
    "Each skip halves the scale. How many there are is also a matter of rounding."
    assert two.main["half"] == two.other["half"]
    alone = half()
    for skipped, scale, lm in (two.main["half"], alone):
        assert 0 < skipped < 18 and scale == 2.0 ** (22 - skipped) and np.isfinite(lm)
    assert abs(two.main["half"][0] - alone[0]) <= 3


def test_failures_reach_all(two):
    assert two.main["failed"].startswith("ZeroDivisionError") and two.other["failed"].startswith(
        "SevlmError: the main process failed (ZeroDivisionError"
    )
    assert two.main["struck"] == two.other["struck"] == "KeyboardInterrupt: "
    for rank, found in enumerate((two.main, two.other)):
        assert (
            f"process {rank} ran out of memory at step 1" in found["crowded"]
            and "`accumulate` (now 1)" in found["crowded"]
        )


def test_files_are_written_once_and_nothing_is_complained_of(two):
    assert {p.name for p in (two.folder / "plain").iterdir()} == {"state.pt", "weights-18.safetensors"}
    assert "Warning" not in two.err and "unused" not in two.err, two.err[-3000:]


def test_a_real_ctrl_c_reaches_all(tmp_path):
    p = launch("wait", tmp_path, start_new_session=True)
    try:
        for _ in range(1200):
            if (tmp_path / "state" / "state.pt").exists() or p.poll() is not None:
                break
            threading.Event().wait(0.1)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    finally:
        p.kill()
    left = [json.loads((tmp_path / f"left-{r}").read_text(encoding="utf-8")) for r in (0, 1)]
    assert left[0] == left[1] and left[0][0] and left[0][1] < 2400, (out, err)
    assert out.count("Interrupted after step") == 1 and make(epochs=400).resume(tmp_path / "state").step == left[0][1]


# one process


def test_start_alone(monkeypatch, capsys):
    for key in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(key, raising=False)
    here = start_processes("cpu")
    assert type(here) is Processes and here.main and here.requested is None and here.from_main(lambda: 3) == 3
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert (
        start_processes().requested == "float16"
        and str(start_processes().device) == "cpu"
        and "Precision float16" in (said := capsys.readouterr().out)
        and "one process" not in said
    )
    assert make(processes=start_processes()).precision == "float16"
    with pytest.raises(ConfigError, match="float16 is for GPUs"):
        make(processes=start_processes()).fit(1)
    with pytest.raises(ConfigError, match="accelerate is set to"):
        make(processes=start_processes(), precision="bfloat16")
    with pytest.raises(ConfigError, match="use the CPU"):
        start_processes("cuda")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert start_processes().count == 1 and "one process only" in capsys.readouterr().out
    for key, value in (("ACCELERATE_USE_DEEPSPEED", "true"), ("ACCELERATE_MIXED_PRECISION", "fp8")):
        monkeypatch.setenv(key, value)
        with pytest.raises(ConfigError):
            start_processes()
        monkeypatch.delenv(key)


def test_another_precision_may_follow():
    "accelerate has one state per program; a learner that goes on gets its own precision back."
    first, second = make(epochs=2), make(precision="bfloat16", epochs=2)
    wide = first.fit(1).losses
    assert first.accelerator.mixed_precision == "no"
    half = second.fit(1).losses
    assert second.accelerator.mixed_precision == "bf16" and wide != half
    again = make(epochs=2)
    assert again.fit(2).losses == first.fit(2).losses


@pytest.mark.parametrize("has, chosen", [(True, "bfloat16"), (False, "float16")])
def test_auto_asks_what_the_card_has(monkeypatch, has, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has)
    assert resolve_precision("auto", "cuda") == resolve_precision("auto", torch.device("cuda:0")) == chosen
    for units, on_cpu in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(distributed, "bfloat16_units", lambda: units)
        assert resolve_precision("auto", "cpu") == on_cpu and resolve_precision("auto", "mps") == "float32"
    assert resolve_precision("bfloat16", "cuda") == "bfloat16"


def test_precision_asked_for():
    assert (
        resolve_precision("float32", "cpu", "float16")
        == resolve_precision("auto", "cpu", "float16")
        == resolve_precision("float16", "cpu", "float16")
        == "float16"
    )
    for given in (("bfloat16", "cpu", "float16"), ("float32", "cpu", "float16", True)):
        with pytest.raises(ConfigError, match="change one"):
            resolve_precision(*given)
    with pytest.raises(ConfigError, match="Did you mean 'float16'"):
        resolve_precision("float61", "cpu")


def test_out_of_memory_by_its_names():
    try:
        torch.empty(10**15)
    except RuntimeError as e:
        assert is_out_of_memory(e)
    else:
        pytest.fail("four petabytes were there")
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("out of luck")) and not is_out_of_memory(
        ValueError("DefaultCPUAllocator: can't allocate memory")
    )


def test_a_batch_without_parts_is_refused():
    batch = Numbers(torch.tensor([[1, 2, 3], [1, 5, 0], [1, 5, 5], [1, 2, 0]]))
    assert [len(p.ids) for p in split_batch(batch, 3)] == [2, 1, 1] and split_batch(batch, 1) == [batch]
    assert len(split_batch(Numbers(batch.ids[:1]), 4)) == 1
    with pytest.raises(ConfigError, match="accumulate=1"):
        split_batch(batch.ids, 2)


def test_interrupts_are_noted_held_and_passed_on():
    before = signal.getsignal(signal.SIGINT)
    with record_interrupts() as came:
        with defer_interrupts():
            signal.raise_signal(signal.SIGINT)
            assert came == []
        assert came == [True]
        signal.raise_signal(signal.SIGINT)
        assert came == [True, True]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        with defer_interrupts():
            signal.raise_signal(signal.SIGINT)


def test_random_numbers_of_a_process():
    def drawn(*place):
        seed_process(*place)
        return torch.rand(()).item(), np.random.rand()

    assert (
        drawn(1, 2, 3) == drawn(1, 2, 3) and len({drawn(1, 2, 3), drawn(2, 2, 3), drawn(1, 3, 3), drawn(1, 2, 4)}) == 4
    )
    state = rng_state()
    first = torch.rand(3)
    set_rng_state(state)
    assert torch.equal(first, torch.rand(3))


if __name__ == "__main__":
    program(*sys.argv[1:])

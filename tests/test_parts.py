"""A step means the same in one part or in nine, in one process or in two: losses and gradients, with the same masks.

Run by accelerate's launcher, this file is the program of two processes.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from words import EMOTIONS, LEXICON, TOKENIZER, WORDS

from sevlm.config import PUBLISHED, SEVLMConfig, TrainConfig
from sevlm.data.batches import collate, in_rows
from sevlm.lexicon.token_table import vad_table
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import encode_all, special_ids
from sevlm.synthetic.dataset import make_mini
from sevlm.training.distributed import start_processes
from sevlm.training.learner import CB, Learner
from sevlm.training.run import start_run
from sevlm.utils import seed_everything

MODES = {
    "corrected": {},
    "published": dict(PUBLISHED, empty_vad="zero"),  # a small batch may have no known word, and then has no loss
    "large contrast": dict(con_weight=3.0),
    "other width": dict(tower="mini", width=48),  # patches pass a trained layer
    "no contrast": dict(use_contrast=False),
}
CLOSE = 1e-5
DROPOUT = 0.2


def batch_of(B, config, seed=0, rows=True):
    "A made-up batch of B paintings; `cls` holds the number of each."
    g = torch.Generator().manual_seed(seed)
    draw = lambda n: int(torch.randint(n, (), generator=g))
    texts = []
    for _ in range(B):
        k = draw(4)
        for emotion in (EMOTIONS[k], EMOTIONS[(k + 1 + draw(3)) % 4]):
            texts.append((emotion, " ".join(WORDS[draw(9)] for _ in range(1 + draw(8)))))
    encoder_width = SEVLM(config).encoder.width
    batch = collate(
        encode_all(TOKENIZER, texts, config.max_tokens),
        special_ids(TOKENIZER),
        config,
        vad_table(TOKENIZER, LEXICON, config.lookup),
        image_of=torch.arange(B).repeat_interleave(2),
        grid=torch.randn(B, config.patches, encoder_width, generator=g),
        cls=torch.arange(B)[:, None],
    )
    if B > 1:
        order = [torch.randperm(B, generator=g) for _ in range(2)]
        batch.neg_perm = torch.stack([torch.empty_like(o).scatter_(0, o, o.roll(-1)) for o in order])
    return in_rows(batch) if rows else batch


class OneStep:
    "The same batch once, or this process's share of it."

    def __init__(self, batch):
        self.batch, self.count = batch, 1

    def __len__(self):
        return 1

    def set_epoch(self, epoch, start=0):
        pass

    def share(self, rank, count):
        B = len(self.batch.grid)
        lo, hi = (B * k // count for k in (rank, rank + 1))
        paintings = list(range(lo, hi)) or [0]
        self.count = count
        self.batch = replace(self.batch._part(paintings), idle=lo == hi, neg_perm=self.batch.neg_perm)

    def __iter__(self):
        yield self.batch


@contextmanager
def masks_by_painting(model):
    "Dropout masks that are a function of painting, place and call, so that every arrangement draws the same ones."
    state, dropout, attention = dict(call=0, paintings=None), F.dropout, F.scaled_dot_product_attention

    def mask(shape, p):
        rows = state["paintings"]
        rows = rows if shape[0] == len(rows) else torch.stack([2 * rows, 2 * rows + 1], 1).flatten()
        assert shape[0] == len(rows)
        phase = torch.full(shape, 12.9898 * state["call"], dtype=torch.float64)
        for dim, (size, factor) in enumerate(zip(shape, (78.233, 37.719, 4.581, 9.151))):
            place = rows if dim == 0 else torch.arange(size)
            phase += (place * factor).view([-1 if d == dim else 1 for d in range(len(shape))])
        state["call"] += 1
        return ((phase.sin() * 43758.5453).frac().abs() >= p).float() / (1 - p)

    def dropped(x, p=0.5, training=True, inplace=False):
        return x * mask(x.shape, p) if training and p else x

    def attended(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            unseen = ~attn_mask if attn_mask.dtype is torch.bool else attn_mask < 0
            scores = scores.masked_fill(unseen, -torch.inf)
        weights = scores.softmax(-1)
        if dropout_p:
            weights = weights * mask(weights.shape, dropout_p)
        return weights @ v

    def begin(_, args):
        state.update(call=0, paintings=args[0].cls[:, 0])

    hook = model.register_forward_pre_hook(begin)
    F.dropout, F.scaled_dot_product_attention = dropped, attended
    try:
        yield
    finally:
        F.dropout, F.scaled_dot_product_attention = dropout, attention
        hook.remove()


class Gradients(CB):
    "What a step gives the optimiser."

    def after_backward(self, learner):
        self.found = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


def step(mode, B, parts=1, processes=None, seed=0, dropout=DROPOUT, rows=False, checkpointing=False, masks=True):
    "Losses, counts and gradients of one step."
    seed_everything(3)
    config = SEVLMConfig.preset("tiny", vocab_size=len(TOKENIZER), **{"dropout": dropout, **MODES[mode]})
    if config.tower == "mini":
        config = config.replace(image_size=96, patches=64)
    batch = batch_of(B, config, seed, rows)
    seed_everything(4)
    model = SEVLM(config)
    model.encoder.requires_grad_(False)
    model.decoder.checkpointing = checkpointing
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    gradients = Gradients()
    learner = Learner(model, OneStep(batch), optimiser, accumulate=parts, processes=processes, callbacks=[gradients])
    with masks_by_painting(model) if masks else nullcontext():
        learner.fit(1)
    return learner.losses, learner.out.counts, gradients.found


def assert_same(one, other):
    (losses, counts, gradients), (losses_, counts_, gradients_) = one, other
    assert losses.keys() == losses_.keys() and gradients.keys() == gradients_.keys()
    assert {k: counts[k] for k in losses if k in counts} == {k: counts_[k] for k in losses if k in counts_}
    for k, value in losses.items():
        assert abs(value - losses_[k]) < CLOSE * max(1, abs(value)), (k, value, losses_[k])
    scale = max(float(g.abs().max()) for g in gradients.values())
    for name, g in gradients.items():
        gap = float((g - gradients_[name]).abs().max())
        assert gap < CLOSE * max(1, scale), (name, gap)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("parts", [2, 4, 9])
def test_parts_have_the_losses_and_gradients_of_the_whole(mode, parts):
    "Contrast on, dropout on with the same masks, float32."
    assert_same(step(mode, 8), step(mode, 8, parts))


@settings(deadline=None, max_examples=12)
@given(
    B=st.integers(1, 9),
    parts=st.integers(2, 9),
    seed=st.integers(0, 99),
    mode=st.sampled_from(["corrected", "published"]),
    rows=st.booleans(),
)
def test_any_batch_in_any_number_of_parts(B, parts, seed, mode, rows):
    "With the texts of a painting in one row the masks differ, so there dropout is off."
    how = dict(seed=seed, rows=rows, dropout=0.0 if rows else DROPOUT)
    assert_same(step(mode, B, **how), step(mode, B, parts, **how))


@pytest.mark.parametrize("parts", [1, 3])
def test_checkpointing_changes_nothing(parts):
    "PyTorch's own masks: they are drawn again as they were, in both passes and in what is computed again."
    assert_same(*(step("corrected", 6, parts, masks=False, checkpointing=on) for on in (False, True)))


def test_the_check_can_fail():
    "A contrast among the paintings of each part is another loss, with another gradient."
    config = SEVLMConfig.preset("tiny", vocab_size=len(TOKENIZER), dropout=0.0)
    batch = batch_of(4, config)
    seed_everything(4)
    model = SEVLM(config)
    with torch.no_grad():
        for layer in model.contrastive_head.mlp[::2]:
            layer.weight *= 3
    parts = batch.split(2)
    apart = [model(replace(part, neg_perm=torch.tensor([[1, 0]] * 2))).losses["con"] for part in parts]
    gap = sum(apart) / 2 - model(batch).losses["con"]
    assert abs(gap.item()) > 1e3 * CLOSE


CASES = [("corrected", 8), ("published", 5), ("corrected", 1), ("no contrast", 3)]


def program(folder):
    with start_processes("cpu") as processes:
        found = [
            {"losses": losses, "counts": counts, "gradients": {n: g.tolist() for n, g in gradients.items()}}
            for mode, B in CASES
            for parts in (1, 2, 4)
            for losses, counts, gradients in [step(mode, B, parts, processes)]
        ]
        Path(folder, f"{processes.rank}.json").write_text(json.dumps(found), encoding="utf-8")


def whole_run(folder, parts=1):
    "A run from files to checkpoints; without dropout, whose masks differ."
    config = SEVLMConfig.preset("tiny", dropout=0.0)
    settings = TrainConfig.preset("tiny", batch_size=7, val_paintings=4, accumulate=parts)
    start_run(Path(folder, "data"), Path(folder, f"run-{parts}"), config, settings, progress=False, gpt2=None)


def launch(folder, name):
    launcher = "--multi_gpu --num_processes=2 --num_machines=1 --mixed_precision=no --dynamo_backend=no"
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher.split(), "--main_process_port=0"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder), "SEVLM_CACHE": str(folder / "cache")}
    env["PYTHONFAULTHANDLER"] = "1"  # what each thread did, should a process be aborted
    ran = subprocess.run([*command, __file__, name, str(folder)], env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran


def test_two_processes_with_parts(tmp_path):
    "One of them is idle where the batch has one painting."
    launch(tmp_path, "program")
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert main == other  # to the last bit: they make the same update
    for (mode, B), k in zip(CASES, range(0, len(main), 3)):
        alone = step(mode, B)
        for found in main[k : k + 3]:
            gradients = {n: torch.tensor(g) for n, g in found["gradients"].items()}
            assert_same(alone, (found["losses"], found["counts"], gradients))


def test_a_whole_run_by_two_processes_in_parts(tmp_path):
    "Files are written once, by the main process; every step has the losses of the run of one process."
    make_mini(tmp_path / "data", n=60, seed=3, workers=1, progress=False)
    whole_run(tmp_path)
    ran = launch(tmp_path, "parts")
    one, two = (pd.read_csv(tmp_path / f"run-{parts}" / "steps.csv") for parts in (1, 3))
    assert len(one) == len(two) > 10 and list(one) == list(two)
    assert (one - two).abs().max(axis=None) < 1e-3  # rounding, and what training makes of it
    assert (one - two).abs().iloc[0].max() < CLOSE
    chosen = json.loads((tmp_path / "run-3" / "train.json").read_text(encoding="utf-8"))["chosen"]
    assert (chosen["processes"], chosen["parts"]) == (2, 3) and ran.stdout.count("2 processes share") == 1
    assert "Warning" not in ran.stderr and "Traceback" not in ran.stderr, ran.stderr[-2000:]
    threads = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("threads-*.json")]
    assert len(threads) == 2 and all(threads) and not [t for own in threads for t in own if "gloo" in t]


def thread_names():
    "Of this process, as the system knows them, those of libraries too; elsewhere than on Linux those of Python."
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return [t.name for t in threading.enumerate()]
    return [comm.read_text(encoding="utf-8").strip() for comm in tasks.glob("*/comm")]


if __name__ == "__main__":
    if sys.argv[1] == "program":
        program(sys.argv[2])
    else:
        whole_run(sys.argv[2], parts=3)
        Path(sys.argv[2], f"threads-{os.environ['RANK']}.json").write_text(json.dumps(thread_names()), encoding="utf-8")

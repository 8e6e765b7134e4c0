"""Counting a training step without memory; measuring one, and cutting it to fit."""

import math
import os
import random
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from sevlm.config import SEVLMConfig, TrainConfig
from sevlm.errors import ConfigError
from sevlm.models.sevlm import SEVLM
from sevlm.studies.gpu_memory import (
    ALLOCATION_BYTES,
    CONTEXT,
    KINDS,
    SLACK,
    MemoryMeter,
    count_step,
    fake_tensors,
)
from sevlm.training import run
from sevlm.training.distributed import Processes, rng_state
from sevlm.training.learner import Learner
from sevlm.training.memory import fit_step, measure_step, parse_bytes, worst_batch
from sevlm.utils import seed_everything

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
SMALL = SEVLMConfig.preset("tiny", width=96, layers=1, vocab_size=3000)
RUN = TrainConfig.preset("paper")
OWN = 4 * sum(p.numel() for n, p in SEVLM(SMALL).named_parameters() if not n.startswith("encoder."))


@contextmanager
def no_log():
    "The profiler's library writes to the terminal."
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept), os.close(nowhere)


def given_out(config, settings, paintings, kept):
    """The most the CPU's allocator has given out at once, by PyTorch's profiler, over a model's building and two
    real steps."""
    with no_log(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model = SEVLM(config).train()
        if settings.checkpointing:
            model.decoder.checkpointing = True
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        for _ in range(2):
            batch = worst_batch(config, paintings, model.encoder, kept)
            for k in ("ids", "segs", "labels"):
                getattr(batch, k).random_(config.vocab_size)
            for k in ("known", "emo_span", "exp_span"):
                getattr(batch, k).fill_(True)
            for t in (batch.vad, batch.grid if kept else batch.img):
                t.normal_()
            batch.image_of.copy_(torch.arange(paintings).repeat_interleave(2))
            batch.neg_perm.copy_(torch.arange(paintings).roll(1).expand(2, -1))
            with (
                nullcontext()
                if settings.precision == "float32"
                else torch.autocast("cpu", getattr(torch, settings.precision))
            ):
                out = model(batch)
            out.losses["total"].backward()
            optimiser.step()
    total = peak = 0
    for e in sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        total += e.nbytes()
        peak = max(peak, total)
    return peak


@pytest.mark.parametrize(
    "paintings, changes, kept",
    [
        (2, {}, True),
        (12, {}, True),
        (12, {}, False),
        (12, dict(checkpointing=True), True),
        (2, dict(precision="bfloat16"), True),
    ],
)
def test_the_count_is_never_below_what_an_allocator_gives_out_and_little_above(paintings, changes, kept):
    settings = RUN.replace(**changes)
    counted, real = (
        count_step(SMALL, settings, paintings, kept, gpu=False).peak,
        given_out(SMALL, settings, paintings, kept),
    )
    assert real <= counted <= 1.15 * real


def test_counting_takes_no_random_number_and_changes_no_global_setting():
    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
            torch.backends.cuda.flash_sdp_enabled(),
        )

    before = state()
    count_step(SMALL.replace(max_tokens=17), RUN.replace(precision="bfloat16", checkpointing=True), 3)
    assert state() == before and type(torch.ones(2)) is torch.Tensor


def test_what_is_trained_has_gradients_and_two_moments():
    c = count_step(SMALL, RUN, 4)
    slack = ALLOCATION_BYTES * 200
    assert (
        OWN <= c.by_kind["weights"] <= OWN + slack
        and OWN <= c.by_kind["gradients"] <= OWN + slack
        and 2 * OWN <= c.by_kind["moments"] <= 2 * OWN + slack
    )
    assert (
        list(c.by_kind) == [k for k in KINDS if k in c.by_kind]
        and sum(c.by_kind.values()) == c.peak
        and c.expected == round(CONTEXT + SLACK * c.peak)
    )


def test_a_frozen_part_has_neither_gradients_nor_moments():
    frozen = count_step(SMALL, RUN.replace(lr_decoder=0.0), 4)
    assert 0 < frozen.by_kind["gradients"] < 0.5 * OWN and frozen.by_kind["weights"] >= OWN
    assert frozen.by_kind["moments"] < 2.1 * frozen.by_kind["gradients"]
    with pytest.raises(ConfigError, match="nothing is trained"):
        count_step(SMALL, RUN.replace(lr_decoder=0.0, lr_vad=0.0, lr_heads=0.0), 4)


def test_what_grows_and_what_does_not():
    few, many = count_step(SMALL, RUN, 8), count_step(SMALL, RUN, 16)
    assert all(few.by_kind[k] == many.by_kind[k] for k in ("weights", "gradients", "moments"))
    assert many.by_kind["activations"] == pytest.approx(2 * few.by_kind["activations"], rel=0.05) and many.by_kind[
        "logits"
    ] == pytest.approx(2 * few.by_kind["logits"], rel=0.01)
    assert count_step(SMALL.replace(max_tokens=16), RUN, 16).by_kind["logits"] < 0.55 * many.by_kind["logits"]


def test_logits_are_scores_log_softmax_and_gradient_of_the_targets():
    B, T, V = 16, SMALL.max_tokens, SMALL.vocab_size
    one = 2 * B * (T - 1) * V * 4
    assert count_step(SMALL, RUN, B).by_kind["logits"] == pytest.approx(3 * one, rel=0.01)


def test_checkpointing_keeps_less_and_changes_nothing_else():
    plain, again = count_step(SMALL, RUN, 16), count_step(SMALL, RUN.replace(checkpointing=True), 16)
    assert again.by_kind["activations"] < plain.by_kind["activations"]
    assert all(again.by_kind[k] == plain.by_kind[k] for k in ("weights", "gradients", "moments"))


def test_half_precision_keeps_copies_of_weights_and_takes_the_loss_in_float32():
    wide, half = count_step(SMALL, RUN, 16), count_step(SMALL, RUN.replace(precision="float16"), 16)
    assert "half weights" not in wide.by_kind and 0.2 * OWN < half.by_kind["half weights"] <= 0.51 * OWN
    assert half.by_kind["logits"] == wide.by_kind["logits"]  # the loss is taken in float32
    assert wide.by_kind["activations"] < count_step(SMALL, RUN, 16, gpu=False).by_kind["activations"]  # dropout's mask


def test_the_tower_in_the_step_is_counted():
    kept, run = count_step(SMALL, RUN, 16), count_step(SMALL, RUN, 16, cached=False)
    assert run.by_kind["image encoder"] > kept.by_kind["image encoder"] > 0


@pytest.mark.parametrize(
    "changes",
    [
        dict(use_fusion=False, use_vad_head=False, use_contrast=False),
        dict(causal_vad=False, boundary="fixed", pad_in_span=True),
    ],
)
def test_any_configuration_is_counted(changes):
    assert count_step(SMALL.replace(**changes), RUN, 2).peak > 0


def test_the_meter_counts_storages_once_and_forgets_them():
    with MemoryMeter() as meter:
        a = torch.ones(1000)
        b = a.view(10, 100).t()
        assert meter.total == math.ceil(4000 / ALLOCATION_BYTES) * ALLOCATION_BYTES
        c = b + 1
        del a, b
        assert meter.total == math.ceil(4000 / ALLOCATION_BYTES) * ALLOCATION_BYTES and meter.peak == 2 * meter.total
        del c
    assert meter.total == 0


def test_masks_mark_everything_and_questions_are_answered():
    with fake_tensors(), MemoryMeter():
        x, mask = torch.empty(4, 5, 6), torch.empty(4, 5, dtype=torch.bool)
        assert (
            x[mask].shape == (20, 6) and x[mask].untyped_storage().nbytes() == 480 and mask.nonzero().shape == (20, 2)
        )
        assert bool(mask.any()) and int(mask.sum()) == 1 and float(x.sum()) == 1.0 and torch.equal(x, x)
        x.requires_grad_()
        x[mask].sum().backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize(
    "text, size",
    [
        ("11GB", 11e9),
        ("11", 11e9),
        (11, 11e9),
        (7.5, 7.5e9),
        ("11 GiB", 11 * 2**30),
        ("11g", 11e9),
        ("900MB", 9e8),
        ("900mib", 900 * 2**20),
        ("1TB", 1e12),
        ("500000000B", 5e8),
        (".5 GB", 5e8),
        ("2.GB", 2e9),
        ("64 kB", 64e3),
    ],
)
def test_amounts(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "11 gigs", "-1GB", "0", "0GB", "1,5GB", "11GB x", "nan", "inf", "1e3GB", "11000000000", "9" * 400, None],
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ConfigError):
        parse_bytes(text)


def test_a_run_without_a_budget_has_the_whole_card(monkeypatch):
    "Also after a run of the same process that had one."
    from sevlm.training.run import limit_memory

    given = []
    card = SimpleNamespace(total_memory=int(44e9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: given.append(share))
    for budget in (11.0, 0.0, 80.0):
        limit_memory(budget, torch.device("cuda"))
    limit_memory(11.0, torch.device("cpu"))
    assert given == [0.25, 1.0, 1.0]


@settings(deadline=None, max_examples=200)
@given(
    batch=st.integers(1, 40),
    least=st.integers(1, 50),
    always=st.booleans(),
    room=st.none() | st.integers(1, 60),
    limit=st.integers(1, 60),
    saving=st.floats(0.1, 1.0),
)
def test_the_first_way_that_fits_is_taken(batch, least, always, room, limit, saving):
    "A made-up card of `limit` bytes: 2 for the weights, 1 for each painting of a part."
    tried = []

    def measure(parts, checkpointing):
        tried.append((parts, checkpointing))
        peak = 2 + math.ceil(-(-batch // parts) * (saving if checkpointing else 1))
        return peak if peak <= limit else None

    fits = lambda way: (peak := measure(*way)) is not None and (room is None or peak <= room)
    try:
        fit = fit_step(measure, batch, least, always, room)
    except ConfigError as e:
        assert "too little for a step" in str(e) and not any(fits(way) for way in list(tried))
        assert (batch, True) in tried
        return
    asked = list(tried)
    assert (fit.parts, fit.checkpointing) == asked[-1] and fits(asked[-1]) and not any(map(fits, asked[:-1]))
    assert asked[0] == (min(least, batch), always) and len(fit.why) == len(asked)
    assert all(parts <= batch for parts, _ in asked) and (fit.checkpointing or not always)


def learner_of(dropout=0.1):
    seed_everything(0)
    model = SEVLM(SMALL.replace(dropout=dropout))
    model.encoder.requires_grad_(False)
    return Learner(model, [], torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))


@pytest.mark.parametrize("room", [99, 1])
def test_measuring_leaves_no_trace(room, monkeypatch):
    "The card is made up: it has room for so many paintings at once. Weights, gradients, random state stay."
    learner, seen = learner_of(), []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 123)
    forward = learner.model.forward

    def small(batch):
        seen.append(len(batch.grid))
        if len(batch.grid) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batch)

    monkeypatch.setattr(learner.model, "forward", small)
    before = [p.clone() for p in learner.model.parameters()], rng_state()["torch"]
    processes, batch = learner.processes, worst_batch(SMALL, 4, learner.model.encoder, True)
    assert measure_step(learner, batch, 1) == (123 if room > 4 else None) and seen == [4]
    assert measure_step(learner, batch, 2) == (123 if room > 4 else None)
    assert measure_step(learner, batch, 4) == 123 and seen[-8:] == [1] * 8  # without graphs, then with them
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(learner.model.parameters(), before[0]))
    assert torch.equal(rng_state()["torch"], before[1]) and not learner.optimiser.state
    assert learner.processes is processes and learner.accumulate == 1


def test_a_run_on_a_card_measures_and_on_a_processor_says_that_it_does_not(monkeypatch):
    "The card is made up; what is measured there is the run's own share of a batch."
    model, tried = SEVLM(SMALL), []
    stand = SimpleNamespace(device=torch.device("cuda"), processes=Processes(), model=model, accumulate=2)

    def measure(learner, batch, parts):
        tried.append((len(batch.grid), parts, model.decoder.checkpointing))
        return 10**9 if parts >= 4 and model.decoder.checkpointing else None

    monkeypatch.setattr(run, "measure_step", measure)
    run_settings = RUN.replace(batch_size=9, budget=3.0)
    fit = run.fit_to_device(stand, run_settings, SimpleNamespace(grids=torch.empty(0)))
    assert tried == [(9, 2, False), (9, 2, True), (9, 4, False), (9, 4, True)]
    assert (fit.parts, fit.checkpointing, fit.peak) == (4, True, 10**9) and "1.00 GB at the peak" in fit.why[-1]
    stand.device = torch.device("cpu")
    fit = run.fit_to_device(stand, run_settings, None)
    assert (fit.parts, fit.checkpointing) == (2, False) and "not used" in fit.why[0] and len(tried) == 4
    assert run.fit_to_device(stand, RUN, None).why == ()


def test_another_error_is_not_taken_for_full_memory(monkeypatch):
    learner = learner_of()
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    batch = worst_batch(SMALL, 2, learner.model.encoder, True)
    batch.vad = batch.vad[:, :, :2]
    with pytest.raises(RuntimeError):
        measure_step(learner, batch, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_smaller_part_takes_less():
    config = SEVLMConfig.preset("paper", tower="tiny", image_size=32, patches=16)
    model = SEVLM(config)
    model.encoder.requires_grad_(False)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    learner = Learner(model, [], optimiser, device="cuda")
    batch = worst_batch(config, 32, model.encoder, True)
    peaks = [measure_step(learner, batch, parts) for parts in (1, 4, 16)]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > 1.2 * peaks[2]
    weights = 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert peaks[2] > 4 * weights  # weights, gradients, two moments


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_count_is_above_what_the_card_gives_out():
    config, device = SEVLMConfig.preset("paper", tower="tiny", image_size=32, patches=16), torch.device("cuda")
    settings, n = RUN.replace(precision="float16"), 16
    torch.manual_seed(0)
    model = SEVLM(config).to(device).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):
        batch = worst_batch(config, n, model.encoder, True)
        with torch.autocast("cuda", torch.float16):
            out = model(batch.to(device))
        out.losses["total"].backward()
        optimiser.step()
    real = torch.cuda.max_memory_allocated(device)
    assert real <= count_step(config, settings, n).peak <= 1.5 * real  # attention is counted the long way

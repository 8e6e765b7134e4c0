"""Counting a training step without memory, and cutting the batch for a budget."""

import math
import os
import random
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sevlm.config import SEVLMConfig, TrainConfig
from sevlm.data.batches import Batch
from sevlm.errors import ConfigError
from sevlm.models.sevlm import SEVLM
from sevlm.training.memory import (
    ALLOCATION_BYTES,
    CONTEXT,
    KINDS,
    SLACK,
    MemoryCB,
    MemoryMeter,
    Plan,
    StepMemory,
    count_step,
    fake_tensors,
    largest_fitting,
    parse_bytes,
    part_sizes,
    plan,
    plan_report,
    worst_batch,
)

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
    "text", ["", "GB", "11 gigs", "-1GB", "0", "0GB", "1,5GB", "11GB x", "nan", "inf", "1e3GB", "11000000000", None]
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(ConfigError):
        parse_bytes(text)


@pytest.mark.parametrize("batch_size", range(1, 40))
@pytest.mark.parametrize("accumulate", [1, 3, 50])
def test_sizes_are_those_of_real_parts(batch_size, accumulate):
    sizes = part_sizes(RUN.replace(batch_size=batch_size, accumulate=accumulate))
    batch = Batch(
        torch.zeros(2 * batch_size, 3, dtype=torch.long),
        image_of=torch.arange(batch_size).repeat_interleave(2),
        grid=torch.zeros(batch_size, 1, 1),
    )
    assert sizes == sorted(sizes, reverse=True) and (batch_size == 1 or sizes[-1] >= 2)
    for size in sizes:
        parts = batch.split(math.ceil(batch_size / size))
        assert max(len(p.grid) for p in parts) == size and sum(len(p.grid) for p in parts) == batch_size


def test_the_largest_that_fits_is_found_by_three_counts():
    sizes, curve = part_sizes(RUN), lambda n: max(5e9 + n * 1e8, 2e9 + n * 5e8)  # bends upwards
    asked = []

    def count(n):
        asked.append(n)
        return StepMemory(n, {"activations": int(curve(n))})

    for room in np.linspace(4e9, 25e9, 40):
        asked.clear()
        counts, fits = largest_fitting(count, sizes, room)
        assert (
            len(asked) <= 3
            and fits == (counts[-1].expected <= room)
            and fits == (StepMemory(2, {"x": int(curve(2))}).expected <= room)
        )
    assert largest_fitting(count, sizes, None)[0][-1].paintings == 32


def test_a_plan_keeps_the_batch_and_stays_in_the_room():
    settings, whole = RUN.replace(batch_size=16), count_step(SMALL, RUN, 16)
    easy = plan(SMALL, settings, "cuda", room=whole.expected)
    assert easy.settings == settings and easy.why == () and easy.lines[0].startswith("16 paintings = 1 x 16; float32; ")
    cut = plan(SMALL, settings, "cuda", room=whole.expected - 1)
    assert (
        cut.settings == settings.replace(accumulate=cut.settings.accumulate)
        and cut.settings.accumulate > 1
        and cut.memory.expected < whole.expected
    )
    assert math.ceil(16 / cut.settings.accumulate) == cut.memory.paintings and any(
        w.startswith("Parts") for w in cut.why
    )
    least = count_step(SMALL, RUN, 2)
    tight = plan(SMALL, settings, "cuda", room=least.expected)
    assert tight.settings.accumulate == 8 and not tight.settings.checkpointing
    assert plan(SMALL, settings.replace(accumulate=4), "cuda", room=10**12).settings.accumulate == 4


def test_checkpointing_comes_last_and_stays_if_asked_for():
    deep = SMALL.replace(layers=3, vocab_size=300, max_tokens=60)
    settings = RUN.replace(batch_size=2)
    plain, again = count_step(deep, RUN, 2), count_step(deep, RUN.replace(checkpointing=True), 2)
    assert again.expected < plain.expected
    chosen = plan(deep, settings, "cuda", room=plain.expected - 1)
    assert (
        chosen.settings.checkpointing and chosen.settings.accumulate == 1 and chosen.why[0].startswith("Checkpointing")
    )
    assert plan(deep, settings.replace(checkpointing=True), "cuda", room=10**12).settings.checkpointing
    with pytest.raises(ConfigError, match="Give at least .* GB, or freeze the decoder") as e:
        plan(deep, settings, "cuda", room=again.expected - 10**6)
    assert "keep the patch tokens" not in str(e.value)
    with pytest.raises(ConfigError, match="keep the patch tokens"):
        plan(deep, settings, "cuda", cached=False, room=1000)


def test_the_budget_and_the_precision():
    assert plan(SMALL, RUN.replace(budget=3.0, batch_size=4), "cpu").room == 3_000_000_000
    assert (
        plan(
            SMALL, RUN.replace(precision="auto", batch_size=4), "cpu", precision="bfloat16", room=10**12
        ).settings.precision
        == "bfloat16"
    )
    with pytest.raises(ConfigError, match="auto"):
        plan(SMALL, RUN.replace(precision="auto"), "cpu", room=10**12)
    free = plan(SMALL, RUN.replace(batch_size=4), "cpu")
    assert free.room is None and free.settings.accumulate == 1 and "nothing was cut" in str(free)
    assert "compilation" in str(plan(SMALL, RUN.replace(batch_size=4, compile=True), "cpu", room=10**12))


def test_an_uneven_cut_is_told_as_such():
    c = StepMemory(11, {"weights": 10**9})
    assert Plan(RUN.replace(accumulate=3), c, None).lines[0].startswith("32 paintings in 3 parts of at most 11; ")
    assert (
        Plan(RUN.replace(accumulate=2), StepMemory(16, c.by_kind), 11 * 10**9)
        .lines[0]
        .startswith("32 paintings = 2 x 16; float32; 1.6 of 11.0 GB expected: weights 1.0")
    )


def test_the_measurement_is_told_once():
    p, said = plan(SMALL, RUN.replace(batch_size=4), "cpu", room=10**12), []
    cb, learner = MemoryCB(p, after=2, log=said.append), type("Stand", (), dict(device=torch.device("cpu")))
    cb.before_fit(learner)
    for n in range(4):
        cb.after_step(learner)
        assert len(said) == (n >= 1)
    assert "not measured" in said[0]
    assert "please report" in plan_report(p, "cuda", (p.memory.peak + 1, 10**9)) and "report" not in plan_report(
        p, "cuda", (p.memory.peak, 10**9)
    )


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
        for k in ("ids", "segs", "labels"):
            getattr(batch, k).random_(config.vocab_size)
        for k in ("known", "emo_span", "exp_span"):
            getattr(batch, k).fill_(True)
        batch.vad.normal_(), batch.grid.normal_()
        (
            batch.image_of.copy_(torch.arange(n).repeat_interleave(2)),
            batch.neg_perm.copy_(torch.arange(n).roll(1).expand(2, -1)),
        )
        with torch.autocast("cuda", torch.float16):
            out = model(batch.to(device))
        out.losses["total"].backward()
        optimiser.step()
    real = torch.cuda.max_memory_allocated(device)
    assert real <= count_step(config, settings, n).peak <= 1.5 * real  # attention is counted the long way

"""Texts laid out in rows, steps in parts, batches in shares: the same numbers in every arrangement."""

import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from words import EMOTIONS, LEXICON, TOKENIZER, WORDS

from sevlm.config import PUBLISHED, SEVLMConfig
from sevlm.data.batches import AHEAD, PairBatches, collate, in_rows
from sevlm.data.paintings import Painting
from sevlm.lexicon.token_table import vad_table
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import encode_all, special_ids
from sevlm.models.vision import ImageEncoder
from sevlm.utils import seed_everything

SPECIAL = special_ids(TOKENIZER)
MODES = {
    "corrected": {},
    "published": PUBLISHED,
    "baseline": dict(use_fusion=False, use_vad_head=False, use_contrast=False),
    "no mask": dict(causal_vad=False),
    "padding counts": dict(pad_in_span=True),
}
text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=16).map(" ".join)
pairs_of = st.lists(st.tuples(st.permutations(EMOTIONS), text, text), min_size=1, max_size=5)


def model_of(mode):
    seed_everything(0)
    config = SEVLMConfig.preset("tiny", vocab_size=len(TOKENIZER), dropout=0.0, **MODES[mode])
    return SEVLM(config).train()


@pytest.fixture(scope="module")
def models():
    return {mode: model_of(mode) for mode in MODES}


def batch_of(pairs, config, seed=0):
    rows = encode_all(TOKENIZER, [p for (a, b, *_), s, t in pairs for p in ((a, s), (b, t))], config.max_tokens)
    B = len(pairs)
    grid = torch.randn(B, config.patches, config.width, generator=torch.Generator().manual_seed(seed))
    perm = torch.stack([torch.arange(B).roll(1), torch.arange(B).roll(-1)]) if B > 1 else None
    return replace(
        collate(
            rows,
            SPECIAL,
            config,
            vad_table(TOKENIZER, LEXICON, config.lookup),
            image_of=torch.arange(B).repeat_interleave(2),
            grid=grid,
        ),
        neg_perm=perm,
    )


def same_losses(a, b):
    for k in a:
        if not (a[k].isnan() and b[k].isnan()):
            torch.testing.assert_close(a[k], b[k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=10)
@given(pairs=pairs_of)
def test_rows_change_no_number(models, mode, pairs):
    model = models[mode]
    plain = batch_of(pairs, model.config)
    rows = in_rows(plain)
    a, b = model(plain), model(rows)
    same_losses(a.losses, b.losses)
    assert a.counts == b.counts and a.losses.keys() == b.losses.keys()
    real = plain.emo_span | plain.exp_span
    torch.testing.assert_close(a.hid[real], b.hid[real], rtol=1e-4, atol=1e-5)
    tokens = int(real.sum())
    assert rows.row_index.numel() <= real.numel() and (len(pairs) > 1 or rows.row_index.numel() == tokens - rows.alike)
    if not a.losses["total"].isnan():
        for p, q in zip(
            *(
                torch.autograd.grad(x.losses["total"], [model.decoder.wte.weight, model.decoder.wpe.weight])
                for x in (a, b)
            )
        ):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_a_text_does_not_see_its_neighbour(models):
    model = models["corrected"].eval()
    pairs = [(("awe", "fear"), "the sky looks so calm", "dark water")]
    with torch.no_grad():
        before = model(in_rows(batch_of(pairs, model.config))).hid
    for k, changed in (
        (0, (("awe", "fear"), "the sky looks so dark", "dark water")),
        (1, (("awe", "fear"), "the sky looks so calm", "dark sky")),
    ):
        with torch.no_grad():
            after = model(in_rows(batch_of([changed], model.config))).hid
        other = 1 - k
        n = min(before.shape[1], after.shape[1])
        real = in_rows(batch_of(pairs, model.config)).labels[other, :n] != -100
        torch.testing.assert_close(before[other, :n][real], after[other, :n][real], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(before[k, :n], after[k, :n], atol=1e-3)
    model.train()


def test_what_cannot_be_laid_out_stays(models):
    config = models["corrected"].config
    whole = batch_of([(EMOTIONS, "the sky", "dark water")] * 2, config)
    mixed = replace(whole, image_of=torch.tensor([0, 1, 0, 1]), neg_perm=None)
    assert in_rows(mixed).row_index is None
    single = collate(
        encode_all(TOKENIZER, [("awe", "sky")], 20), SPECIAL, config, None, image_of=torch.zeros(1, dtype=torch.long)
    )
    assert in_rows(single).row_index is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [2, 3, 9])
def test_parts_add_up(models, mode, n):
    "The contrast, whose negatives come from the whole batch, is computed from the means of all parts."
    model = models[mode]
    whole = in_rows(
        batch_of(
            [(EMOTIONS[i % 4 :] + EMOTIONS[: i % 4], " ".join(WORDS[: 3 + i]), " ".join(WORDS[i:])) for i in range(7)],
            model.config,
        )
    )
    parts = whole.split(n)
    assert len(parts) == min(n, 7) and [len(p.grid) for p in parts] == [
        len(x) for x in torch.arange(7).tensor_split(min(n, 7))
    ]
    assert all(p.row_index is not None and p.neg_perm is None for p in parts) and whole.split(1) == [whole]
    for k in ("grid", "emo_span", "labels"):
        rows = [getattr(p, k) for p in parts]
        assert torch.equal(torch.cat(rows), getattr(whole, k))
    assert {k: sum(p.counts[k] for p in parts) for k in whole.counts} == whole.counts
    for p in parts:
        p.whole = whole.counts
    outs = [model(p) for p in parts]
    expected = model(whole).losses
    own = expected.keys() - {"con", "total"}
    same_losses({k: expected[k] for k in own}, {k: sum(o.losses[k] for o in outs) for k in own})
    if model.compares:
        compared = model.compare(tuple(torch.cat(rows) for rows in zip(*(o.rows for o in outs))), whole)
        same_losses({"con": expected["con"]}, {"con": compared["con"]})
        same_losses({"total": expected["total"]}, {"total": sum(o.losses["total"] for o in outs) + compared["total"]})


def test_a_part_without_a_known_word(models):
    model = models["published"]
    whole = in_rows(batch_of([(EMOTIONS, "so", "and")] * 2 + [(EMOTIONS, "dark sky", "water")] * 2, model.config))
    parts = whole.split(2)
    for p in parts:
        p.whole = whole.counts
    assert parts[0].counts["vad"] == 0 < parts[1].counts["vad"]
    same_losses({"vad": model(whole).losses["vad"]}, {"vad": sum(model(p).losses["vad"] for p in parts)})


PAINTINGS = [
    Painting(
        "Realism",
        f"n{i}",
        ("awe", "fear", "awe"),
        tuple(" ".join(WORDS[: 1 + (i + k) % 8]) for k in range(3)),
        ("",) * 3,
    )
    for i in range(11)
]


def batches_of(config, paintings=PAINTINGS, size=4, **how):
    return PairBatches(
        paintings,
        TOKENIZER,
        vad_table(TOKENIZER, LEXICON, config.lookup),
        config,
        batch_size=size,
        grids=torch.arange(11.0)[:, None, None].expand(11, 2, 3),
        **how,
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_make_up_the_batch(count):
    config = SEVLMConfig.preset("tiny")
    whole = list(batches_of(config))
    shares = [list(batches_of(config).share(rank, count)) for rank in range(count)]
    assert all(len(s) == len(whole) == 3 for s in shares)
    for batch, *parts in zip(whole, *shares):
        busy = [p for p in parts if not p.idle]
        assert torch.equal(torch.cat([p.grid[:, 0, 0] for p in busy]), batch.grid[:, 0, 0]) and all(
            len(p.grid) for p in parts
        )
        assert all(torch.equal(p.neg_perm, batch.neg_perm) for p in parts)  # of the whole batch, in every share
        assert {k: sum(p.counts[k] for p in parts) for k in batch.counts} == batch.counts
    assert any(p.idle for s in shares for p in s) == (count > 3)


@settings(deadline=None, max_examples=30)
@given(B=st.integers(1, 11), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_negatives_are_other_paintings(B, seed, epoch):
    "Two permutations of the whole batch, each a single cycle; none for a batch of one painting."
    batches = batches_of(SEVLMConfig.preset("tiny"), seed=seed, size=B)
    batches.set_epoch(epoch)
    for b in batches:
        n = len(b.grid)
        if n == 1:
            assert b.neg_perm is None
            continue
        for perm in b.neg_perm.tolist():
            at, visited = 0, []
            for _ in range(n):
                visited.append(at := perm[at])
            assert sorted(visited) == list(range(n))


def equal_batches(a, b):
    return len(a) == len(b) and all(
        torch.equal(getattr(x, k), getattr(y, k))
        for x, y in zip(a, b)
        for k in ("ids", "grid", "neg_perm", "row_index", "vad")
        if getattr(x, k) is not None or getattr(y, k) is not None
    )


@pytest.mark.parametrize("start", [0, 1, 2, 5, 6])
def test_a_pass_from_the_middle_opens_no_picture_before_it(start):
    config, asked = SEVLMConfig.preset("tiny"), []

    def grid(i):
        asked.append(i)
        return torch.full((2, 3), float(i))

    make = lambda grids: PairBatches(
        PAINTINGS, TOKENIZER, vad_table(TOKENIZER, LEXICON, config.lookup), config, batch_size=2, grids=grids
    )
    unbroken, resumed = make(torch.arange(11.0)[:, None, None].expand(11, 2, 3)), make(grid)
    unbroken.set_epoch(3)
    resumed.set_epoch(3, start)
    whole = list(unbroken)
    assert equal_batches(whole[start:], list(resumed)) and len(resumed) == len(whole) == 6
    assert sorted(asked) == sorted(int(i) for b in whole[start:] for i in b.grid[:, 0, 0])
    resumed.set_epoch(4)
    unbroken.set_epoch(4)
    assert equal_batches(list(unbroken), list(resumed))


def test_published_order_of_batches():
    "As published, paintings come in random order, whatever the length of their texts; ours are grouped by it."
    longer = [
        replace(p, explanations=tuple(" ".join(WORDS[: 1 + (5 * i + 3 * k) % 8]) for k in range(3)))
        for i, p in enumerate(PAINTINGS)
    ]

    def composition(paintings, grouped):
        config = SEVLMConfig.preset("tiny", group_by_length=grouped)
        batches = batches_of(config, paintings=paintings)
        assert len(batches) == 3
        return [b.grid[:, 0, 0].tolist() for b in batches]

    assert composition(PAINTINGS, False) == composition(longer, False)
    assert composition(PAINTINGS, True) != composition(longer, True)
    assert not SEVLMConfig.preset("paper").group_by_length and SEVLMConfig.preset("corrected").group_by_length
    for grouped in (True, False):
        assert sorted(sum(composition(PAINTINGS, grouped), [])) == list(range(11))


def test_reading_ahead_loses_nothing_and_raises_in_time():
    config, asked = SEVLMConfig.preset("tiny"), []

    def grid(i):
        asked.append(i)
        if i == 3:
            raise OSError("disk gone")
        return torch.zeros(2, 3)

    batches = PairBatches(PAINTINGS, TOKENIZER, None, config, batch_size=2, grids=grid)
    broken = next(n for n, (pairs, _) in enumerate(batches.plan()) if 3 in [i for i, *_ in pairs])
    got = []
    with pytest.raises(OSError, match="disk gone"):
        for b in batches:
            got.append(b)
    assert len(got) == broken  # every batch before the broken one


def pixels(i):
    return torch.full((3, 8, 8), float(i))


def test_threads_change_no_batch_and_no_random_state():
    config = SEVLMConfig.preset("tiny")
    make = lambda n: PairBatches(PAINTINGS, TOKENIZER, None, config, batch_size=2, pixels=pixels, workers=n)
    state = torch.get_rng_state()
    one, several = list(make(1)), list(make(5))
    assert equal_batches(one, several) and all(torch.equal(a.img, b.img) for a, b in zip(one, several))
    assert torch.equal(state, torch.get_rng_state()) and make(0).workers >= 1 and make(3).workers == 3


def test_an_abandoned_pass_ends_its_threads_and_reads_little():
    config, opened = SEVLMConfig.preset("tiny"), []
    before = threading.active_count()
    batches = PairBatches(
        PAINTINGS * 9, TOKENIZER, None, config, batch_size=2, pixels=lambda i: opened.append(i) or pixels(i)
    )
    passing = iter(batches)
    next(passing)
    passing.close()
    assert threading.active_count() == before
    assert len(opened) <= 2 * (AHEAD + 2) < len(batches.paintings)  # those made ahead, and none after the end


def test_pinned_where_asked(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(t) or t)
    config = SEVLMConfig.preset("tiny")
    for ask in (False, True):
        pinned.clear()
        (b,) = PairBatches(PAINTINGS[:3], TOKENIZER, None, config, batch_size=4, pixels=pixels, pin_memory=ask)
        assert any(t is b.img for t in pinned) == ask


def test_pooled_patches():
    config = SEVLMConfig.preset("mini", tower_pretrained="")
    whole, pooled = ImageEncoder(config), ImageEncoder(config.replace(pool=4, patches=4))
    pooled.load_state_dict(whole.state_dict())
    img = torch.rand(2, 3, 96, 96)
    grid, cls = whole(img)
    squares = grid.view(2, 2, 4, 2, 4, -1).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(pooled(img)[0], squares)
    assert torch.equal(pooled(img)[1], cls)

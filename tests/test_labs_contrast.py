"""The laboratories of the contrast and of the causal mask: arms, perfect eyes, scores, texts drawn by lot; nothing here
is about the outcome of a training."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sevlm.config import EMOTIONS
from sevlm.data.batches import PairBatches, collate
from sevlm.errors import DataError
from sevlm.models.contrast import contrastive_scores
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import prompt_ids, special_ids
from sevlm.studies import lab_contrast, lab_mask
from sevlm.studies.lab_contrast import (
    CONTRAST_ARMS,
    EYE_VALUES,
    ArmSEVLM,
    arm_gaps,
    arm_loss,
    explanation_nats,
    gap_verdict,
    lab_batches,
    lab_config,
    lab_words,
    make_exam,
    make_world,
    over_seeds,
    perfect_eyes,
    run_arm_of_lab,
    run_stored,
    sit_exam,
)
from sevlm.studies.lab_mask import (
    LOT_BECAUSE,
    LOT_FIRST,
    LOT_HINTS,
    LOT_WORDS,
    MASK_CONDITIONS,
    Lots,
    best_loss,
    draw_lots,
    learn_lots,
    lots_batch,
    lots_config,
    mask_gaps,
    two_losses,
)
from sevlm.synthetic.paint import random_scene
from sevlm.synthetic.words import things_named
from sevlm.utils import seed_everything


@pytest.fixture(scope="module")
def world():
    return make_world(24, 3, lab_config())


@pytest.fixture(scope="module")
def batch(world):
    return next(lab_batches(world, lab_config(), seed=0))


def arm_model(name, seed=0, **changes):
    seed_everything(seed)
    model = ArmSEVLM(lab_config(use_contrast=len(CONTRAST_ARMS[name].columns) > 1, **changes))
    model.arm = CONTRAST_ARMS[name]
    return model


def test_a_linear_map_of_the_mean_patch_finds_every_attribute():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(1200)]
    grids = perfect_eyes(scenes, patches=16, width=48, rng=rng)
    there = torch.tensor([[v in s.attributes() for v in EYE_VALUES] for s in scenes])
    means = torch.cat([grids.mean(1), torch.ones(len(scenes), 1)], 1)
    fitted = torch.linalg.lstsq(means[:800], there[:800].float()).solution
    found = means[800:] @ fitted > 0.5
    assert len(EYE_VALUES) == 36 and (found == there[800:]).float().mean() > 0.99


def test_a_world_names_what_is_there_and_has_two_emotions_a_scene(world):
    for scene, painting, odds in zip(world.scenes, world.paintings, world.odds):
        assert len(set(painting.emotions)) > 1 and set(painting.emotions) <= set(EMOTIONS)
        assert all(things_named(text) <= scene.attributes() for text in painting.explanations)
        assert all(len(text.split()) <= lab_contrast.LONGEST_TEXT for text in painting.explanations)
        assert abs(odds.sum() - 1) < 1e-9
    again = make_world(24, 3, lab_config())
    assert again.paintings == world.paintings and torch.equal(again.grids, world.grids)


@pytest.mark.parametrize("name, negatives", [("(a)", (1,)), ("(b)", (2,)), ("both", (1, 2))])
def test_an_arm_uses_exactly_the_negatives_it_promises(batch, name, negatives):
    model = arm_model(name, con_weight=2.0)
    out = model(batch)
    scores = contrastive_scores(model.contrastive_head, *out.rows, batch.neg_perm)
    there = scores.exp()
    con = -(there[:, 0] / (there[:, 0] + sum(there[:, k] for k in negatives))).log().mean()
    assert torch.allclose(out.losses["con"], con, atol=1e-5)
    assert torch.allclose(arm_loss(model, batch), out.losses["lm"] + 2.0 * con, atol=1e-5)


def test_no_other_explanation_takes_part_in_an_arm(batch):
    "(a) alone has no gradient through another painting's texts, (b) alone none through the neighbour's."
    S = len(batch.ids)
    for name, seen in (
        ("(a)", lambda s: {s, s ^ 1}),
        ("(b)", lambda s: {s, 2 * int(batch.neg_perm[s % 2, s // 2]) + s % 2}),
    ):
        model = arm_model(name)
        grid, emotion, text = (row.detach() for row in model(batch).rows)
        text.requires_grad_()
        for s in (0, 5):  # the gradient of one sequence's loss, by the emotion that only it has
            scores = contrastive_scores(model.contrastive_head, grid, emotion, text, batch.neg_perm)
            kept = scores[:, list(model.arm.columns)]
            (gradient,) = torch.autograd.grad(
                torch.nn.functional.cross_entropy(kept[s : s + 1], torch.zeros(1).long()), text
            )
            assert {k for k in range(S) if gradient[k].abs().sum() > 0} == seen(s)


def test_the_coin_has_the_scores_of_both_and_says_nothing(batch):
    both, coin = arm_model("both"), arm_model("coin")
    rows = both(batch).rows
    table = contrastive_scores(both.contrastive_head, *rows, batch.neg_perm).detach()
    costs = -table.log_softmax(1)  # [S, 3], each column as if it were the true one
    seed_everything(1)
    drawn = torch.stack([coin.compare(rows, batch)["con"].detach() for _ in range(400)])
    assert costs.min(1).values.mean() < drawn.min() and drawn.max() < costs.max(1).values.mean()
    assert abs(float(drawn.mean() - costs.mean())) < 5 * float(drawn.std()) / math.sqrt(400)


def test_likelihood_compares_the_picture_with_that_of_negative_b(batch):
    model = arm_model("likelihood", con_weight=3.0)
    own = explanation_nats(model, model(batch).hid, batch)
    turned = replace(batch, grid=torch.stack([batch.grid[i] for i in batch.neg_perm[0]]))
    other = explanation_nats(model, model(turned).hid, batch)
    own, other = own.double(), other.double()  # e to the minus hundred is no number of single precision
    expected = -(torch.exp(-own) / (torch.exp(-own) + torch.exp(-other))).log().mean()
    added = arm_loss(model, batch) - model(batch).losses["lm"]
    assert added.item() == pytest.approx(3.0 * expected.item(), rel=1e-3)


def test_nats_of_explanations_add_up_to_the_loss(batch):
    model = arm_model("none")
    out = model(batch)
    logp = out.logits[:, :-1].log_softmax(-1)
    for s in (0, 3):
        there = [t for t in range(1, batch.ids.shape[1]) if batch.exp_span[s, t] and batch.labels[s, t] != -100]
        by_hand = -sum(logp[s, t - 1, batch.ids[s, t]] for t in there)
        assert torch.allclose(explanation_nats(model, out.hid, batch)[s], by_hand, atol=1e-3)


def test_scores_of_a_decoder_without_eyes():
    "With its cross-attention's output at zero, a model is blind: exchanging the picture costs exactly nothing."
    exam = make_exam(12, 0, lab_config())
    model = arm_model("none")
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.crossattention.c_proj.weight.zero_()
            block.crossattention.c_proj.bias.zero_()
    scores = sit_exam(model, exam, write=True)
    assert abs(scores["look"]) < 1e-4 and scores["tie"] != 0 and 0 <= scores["accuracy"] <= 1
    assert -math.log(9) - 3 < scores["log score"] < 0
    assert torch.equal(exam.true.exp_span.sum(1), exam.crossed.exp_span.sum(1))  # the same explanations ...
    pairs = [list(map(tuple, ids.view(12, 2, -1).tolist())) for ids in (exam.true.ids, exam.crossed.ids)]
    assert pairs[0] != pairs[1]  # ... after other emotions
    assert exam.named.ids.shape[0] == 12 * len(EMOTIONS) and (exam.spoken.sum(1) >= 1).all()


def test_named_emotions_are_those_that_the_texts_would_name():
    "The probability of an emotion is that of its tokens after the prompt, among the nine."
    exam, model = make_exam(1, 1, lab_config()), arm_model("none").eval()
    tokenizer, table = lab_words()
    said = [tokenizer.decode(row[there]).strip() for row, there in zip(exam.named.ids, exam.spoken)]
    assert said == [f"{e} because" for e in EMOTIONS]
    start, by_hand = len(prompt_ids(tokenizer)), []
    for e in EMOTIONS:
        ids = prompt_ids(tokenizer, e)
        where = dict(grid=exam.world.grids, image_of=torch.zeros(1, dtype=torch.long))
        logp = model(collate([ids], special_ids(tokenizer), lab_config(), table, **where)).logits[0].log_softmax(-1)
        by_hand.append(sum(logp[t - 1, ids[t]].item() for t in range(start, len(ids))))
    expected = exam.world.odds[0] @ torch.tensor(by_hand, dtype=torch.double).log_softmax(0).numpy()
    assert sit_exam(model, exam)["log score"] == pytest.approx(expected, abs=1e-4)


def test_arms_of_a_seed_start_alike_and_see_the_same_batches(world):
    "Before the first step all arms have the same scores; batches depend on the seed alone."
    start = arm_model("none", seed=9).state_dict()
    first = {
        name: run_arm_of_lab(name, 1.0, 16, 5, start, (1,), exam_scenes=6) for name in ("none", "both", "likelihood")
    }
    for name, rows in first.items():
        assert [r["step"] for r in rows] == [0, 1] and rows[0]["look"] == pytest.approx(
            first["none"][0]["look"], abs=1e-4
        )
        assert "grounding" in rows[1] and ("told apart (a)" in rows[0]) == (name == "both")
    one, two = (lab_batches(world, lab_config(use_contrast=flag), seed=4) for flag in (True, False))
    for _ in range(5):
        a, b = next(one), next(two)
        assert torch.equal(a.ids, b.ids) and torch.equal(a.neg_perm, b.neg_perm) and torch.equal(a.grid, b.grid)


def test_finished_runs_are_read_and_a_damaged_one_is_refused(tmp_path):
    made = []

    def job(k):
        made.append(k)
        return [dict(k=k, step=s) for s in (1, 2)]

    jobs = {f"run-{k}": (lambda k=k: job(k)) for k in range(3)}
    whole = run_stored(jobs, tmp_path, progress=False)
    assert len(whole) == 6 and made == [0, 1, 2]
    (tmp_path / "run-1.json").unlink()
    assert run_stored(jobs, tmp_path, progress=False).equals(whole) and made == [0, 1, 2, 1]
    (tmp_path / "run-2.json").write_text('{"rows": [{"k"', encoding="utf-8")
    with pytest.raises(DataError, match="run-2.json"):
        run_stored(jobs, tmp_path, progress=False)


def test_plans_name_every_run_once(tmp_path, monkeypatch):
    "What the pages promise is what would run: the jobs are counted, not run."
    seen = {}
    keep = lambda jobs, out, progress: seen.update({out: list(jobs)})
    monkeypatch.setattr(lab_contrast, "run_stored", keep)
    monkeypatch.setattr(lab_mask, "run_stored", keep)
    lab_contrast.run_contrast_lab("contrast")
    lab_mask.run_mask_lab("mask")
    assert len(set(seen["contrast"])) == 6 * 5 + 4 * 4 + 2 * 4 and len(set(seen["mask"])) == 2 * 5 * len(
        MASK_CONDITIONS
    )


def test_both_arms_of_the_mask_begin_alike_and_learn():
    "The hint tells the word always: the loss in writing falls from nearly that of a guess among all tokens."
    lots = Lots(told=1.0)
    causal, leaky = (learn_lots(mask, lots, seed=0, steps_seen=(1, 60)) for mask in (True, False))
    assert [(row["mask"], row["step"], row["best"]) for row in causal] == [("causal", 1, 0.0), ("causal", 60, 0.0)]
    assert [row["mask"] for row in leaky] == ["none", "none"]
    for first, last in (causal, leaky):
        assert last["written"] < 0.5 * first["written"]
    again = [learn_lots(True, lots, seed=0, steps_seen=(1, 2)) for _ in range(2)]
    assert again[0] == again[1]
    assert causal[-1]["trained"] == pytest.approx(causal[-1]["written"], abs=1e-4)  # nothing leaks


def test_intervals_and_gaps_by_hand():
    mean, low, high = over_seeds([1.0, 2.0, 3.0, 6.0])
    half = 3.182446 * math.sqrt(14 / 3 / 4)  # Student's t with three degrees of freedom
    assert (mean, low, high) == pytest.approx((3.0, 3 - half, 3 + half), abs=1e-4)
    assert over_seeds([2.0])[0] == 2.0 and all(map(math.isnan, [*over_seeds([2.0])[1:], *over_seeds([])]))
    assert [gap_verdict(*x) for x in ((0.1, 1), (-1, -0.1), (-1, 1))] == ["helps", "harms", "cannot be told from zero"]
    rows = pd.DataFrame(
        [
            dict(arm=arm, weight=1.0, paintings=1000, seed=s, step=9, look=10.0 * s + add[s])
            for arm, add in (("none", (0, 0, 0)), ("both", (1, 2, 3)))
            for s in range(3)
        ]
    )
    gap = arm_gaps(rows, "look", 9).loc["both"]
    assert gap["mean"] == 2.0 and gap.seeds == 3 and gap.low == pytest.approx(over_seeds([1, 2, 3])[1])


@pytest.mark.parametrize("lots", MASK_CONDITIONS)
def test_lots_have_the_entropy_that_is_claimed(lots):
    ids = draw_lots(lots, 4000, torch.Generator().manual_seed(0))
    hint, words = ids[:, 1] - LOT_HINTS, ids[:, LOT_FIRST:-1] - LOT_WORDS
    assert (
        words.shape[1] == lots.length
        and (ids[:, 2] == LOT_BECAUSE).all()
        and set(words.unique().tolist()) == {0, 1, 2, 3}
    )
    away = torch.bincount(((words - hint[:, None]) % 4).flatten(), minlength=4) / words.numel()
    assert abs(float(-(away * away.log()).sum()) - best_loss(lots)) < 0.03
    if lots.length > 1:  # words are drawn one by one
        same = (words[:, 0] == words[:, 1]).float().mean()
        p = lots.told + (1 - lots.told) / 4
        assert abs(float(same) - (p**2 + 3 * ((1 - lots.told) / 4) ** 2)) < 0.04


def test_with_a_mask_both_readings_agree_and_without_they_do_not():
    unseen = draw_lots(Lots(length=4), 32, torch.Generator().manual_seed(0))
    for causal in (True, False):
        seed_everything(3)
        model = SEVLM(lots_config(causal)).eval()
        with torch.no_grad():  # a random model whose felt channel is loud enough to be read
            model.fusion.linear.weight[:, -3:].mul_(20)
        trained, written = two_losses(model, lots_batch(unseen, model.config))
        assert (abs(trained - written) < 1e-5) == causal


def test_two_losses_are_over_the_words_after_the_first():
    "A model that always says one word has the loss of that word, whatever the first word is."
    ids = draw_lots(Lots(length=3), 8, torch.Generator().manual_seed(0))
    seed_everything(0)
    model = SEVLM(lots_config(True)).eval()
    batch = lots_batch(ids, model.config)
    with torch.no_grad():
        logp = model(batch).logits.log_softmax(-1)
    by_hand = -torch.stack([logp[:, t - 1].gather(1, ids[:, t, None]) for t in (LOT_FIRST + 1, LOT_FIRST + 2)]).mean()
    assert two_losses(model, batch)[0] == pytest.approx(float(by_hand), abs=1e-5)


def test_gaps_of_the_mask_by_hand():
    rows = [
        dict(lots._asdict(), mask=mask, seed=s, step=7, trained=1.0 - leak * s, written=1.0 + 2 * leak * s, best=1.0)
        for lots in MASK_CONDITIONS
        for mask, leak in (("causal", 0), ("none", 1))
        for s in range(3)
    ]
    gaps = mask_gaps(pd.DataFrame(rows))
    assert len(gaps) == len(MASK_CONDITIONS) and gaps.condition.is_unique
    assert (gaps.harm == 2.0).all() and (gaps.flattery == 3.0).all() and (gaps.found == 2).all()


def test_pairs_of_the_laboratory_are_those_of_the_library(world):
    "The first epoch's batches are the library's own."
    tokenizer, table = lab_words()
    library = PairBatches(world.paintings, tokenizer, table, lab_config(), 2, lab_contrast.LAB_BATCH, grids=world.grids)
    for ours, theirs in zip(lab_batches(world, lab_config(), 2), library):
        assert torch.equal(ours.ids, theirs.ids)

"""Each switch between the released code and ours acts, in its one place; the towers are what they should be.
(Equality with the reference: test_golden.py.)"""

import pytest
import torch
from PIL import Image

from sevlm.config import PUBLISHED, SEVLMConfig
from sevlm.data.batches import Batch, collate
from sevlm.models.contrast import contrastive_loss
from sevlm.models.fusion import Fusion
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import Special, span_masks
from sevlm.models.vision import ImageEncoder, create_clip

SPECIAL = Special(bos=0, eos=0, pad=300, emotion=302, explanation=303, because=5)
UNMOVED = 1e-7  # relative: a stabler way of computing the contrastive loss leaves out an epsilon, which is worth 2e-8
TEXTS = [
    [0, 1, 2, 3, 4, 5, 10, 11, 12, 0],
    [0, 1, 2, 3, 6, 7, 5, 13, 0],
]  # one-piece emotion; two-piece emotion, shorter


def model_of(**switches) -> SEVLM:
    "Its fusion reads the VAD encoding from the start."
    torch.manual_seed(0)
    return SEVLM(SEVLMConfig.preset("tiny", **{"dropout": 0.0, "fusion_start": "random", **switches})).eval()


def batch_of(model: SEVLM, paintings: int = 2, known: bool = True, config: SEVLMConfig | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(304, 3, generator=generator)
    look = lambda ids: (table[ids] * known, (ids > 9) & (ids < 300) & known)
    return collate(
        TEXTS * paintings,
        SPECIAL,
        config or model.config,
        look,
        image_of=torch.arange(2 * paintings) // 2,
        grid=torch.randn(paintings, 16, 48, generator=generator),
        neg_perm=torch.tensor([[1, 0], [1, 0]]) if paintings == 2 else None,
    )


def losses(paintings: int = 2, known: bool = True, **switches) -> dict[str, float]:
    "In double precision, where what a switch moves (2e-5 at least) stands out from rounding (1e-15)."
    model = model_of(**switches).double()
    batch = batch_of(model, paintings, known)
    batch.vad, batch.grid = batch.vad.double(), batch.grid.double()
    return {k: v.item() for k, v in model(batch).losses.items()}


@pytest.mark.parametrize(
    "switch, moved",
    [("causal_vad", {"lm", "vad", "con"}), ("boundary", {"lm", "vad", "con"}), ("pad_in_span", {"con"})],
)
def test_switches_that_move_the_losses_of_an_ordinary_batch(switch, moved):
    "And no other loss: padding in a mean, for one, is nothing to the words."
    ours, theirs = losses(), losses(**{switch: PUBLISHED[switch]})
    assert {k for k in ("lm", "vad", "con") if ours[k] != pytest.approx(theirs[k], rel=UNMOVED)} == moved


@pytest.mark.parametrize("switch", ["stable_contrast", "empty_vad", "lone_negative", "image_stats", "resize", "lookup"])
def test_switches_that_do_not(switch):
    "The first three act in special cases only, the others before the batch is made."
    assert losses(**{switch: PUBLISHED[switch]}) == pytest.approx(losses(), rel=UNMOVED)


def test_empty_vad():
    assert losses(known=False)["vad"] == 0 and losses(known=False)["total"] > 0
    assert torch.tensor(losses(known=False, empty_vad="nan")["total"]).isnan()


def test_lone_negative():
    "One painting: its own explanation as the 'negative' makes the loss larger than two candidates can."
    two, three = losses(paintings=1)["con"], losses(paintings=1, lone_negative="itself")["con"]
    assert two < three < two + torch.tensor(2.0).log() + 1e-6


def test_stable_contrast():
    score = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert contrastive_loss(score, stable=False).item() == pytest.approx(contrastive_loss(score).item(), abs=1e-4)
    assert contrastive_loss(score + 100, stable=False).isnan() and contrastive_loss(score + 100).isfinite()


def test_fusion_start():
    "A new fusion hands the embeddings on; 'random' scrambles them, as published."
    emb, enc, span = torch.randn(2, 5, 8), torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    assert torch.allclose(Fusion(8, "identity")(emb, enc, span), emb)
    assert (Fusion(8, "random")(emb, enc, span) - emb).abs().max() > 0.1
    without = model_of(use_fusion=False)
    for start, same in (("identity", True), ("random", False)):
        model = model_of(fusion_start=start)
        without.load_state_dict(model.state_dict(), strict=False)
        logits = [m(batch_of(m)).logits for m in (model, without)]
        assert ((logits[0] - logits[1]).abs().max() < 1e-5) == same


def test_padding_to_the_full_length_where_it_counts():
    "As published, texts have `max_tokens`; corrected, the length of the longest."
    for switches, T in (({}, 10), (dict(causal_vad=False), 32), (dict(pad_in_span=True), 32), (PUBLISHED, 32)):
        assert batch_of(model_of(**switches)).ids.shape == (4, T)


@pytest.mark.parametrize(
    "switches, moved", [({}, False), (dict(pad_in_span=True), False), (dict(causal_vad=False), True), (PUBLISHED, True)]
)
def test_logits_depend_on_padding_as_published_only(switches, moved):
    "Those of real tokens: a VAD encoder without a mask sees the padding, too."
    model, padded = model_of(**switches), dict(causal_vad=False)  # with it collate pads to max_tokens
    short, long = (batch_of(model, config=model.config.replace(max_tokens=T, **padded)) for T in (12, 32))
    real = short.ids != SPECIAL.pad
    assert long.ids.shape == (4, 32) and torch.equal(long.ids[:, :12], short.ids)
    difference = model(short).logits[real] - model(long).logits[:, :12][real]
    assert (difference.abs().max() > 1e-3) == moved


def test_fixed_boundary_counts_padding_on_both_sides():
    ids = torch.tensor([[0, 1, 5, 0, 300, 300, 300, 300]])
    emo, exp = span_masks(ids, SPECIAL, "fixed", include_pad=True)
    assert emo[0].tolist() == [True] * 6 + [False] * 2 and exp[0].tolist() == [False] * 6 + [True] * 2


@pytest.mark.parametrize("switch", ["image_stats", "resize"])
def test_switches_of_the_picture(switch):
    picture = Image.effect_noise((90, 70), 60).convert("RGB")
    ours, theirs = (
        ImageEncoder(SEVLMConfig.preset("tiny", **s)).preprocess(picture) for s in ({}, {switch: PUBLISHED[switch]})
    )
    assert ours.shape == theirs.shape and not torch.allclose(ours, theirs, atol=1e-2)


def test_bilinear_is_what_pillow_does():
    "The reference resizes with torchvision's default on a PIL picture, which is Pillow's bilinear filter."
    picture = Image.effect_noise((90, 70), 60).convert("RGB")
    encoder = ImageEncoder(SEVLMConfig.preset("tiny", resize="bilinear", image_stats="imagenet"))
    pixels = (
        torch.tensor(list(picture.resize((32, 32), Image.Resampling.BILINEAR).tobytes()))
        .view(32, 32, 3)
        .permute(2, 0, 1)
        / 255
    )
    expected = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    torch.testing.assert_close(encoder.preprocess(picture), expected, rtol=0, atol=1e-5)


def test_causal_switch_is_what_separates_the_two_modes():
    "With the mask, no logit before a word moves with its VAD; without it, as published, some do."
    for causal in (True, False):
        model = model_of(causal_vad=causal)
        batch = batch_of(model)
        moved = Batch(**vars(batch))
        moved.vad = batch.vad.clone()
        moved.vad[:, 8:] = -moved.vad[:, 8:]
        with torch.no_grad():
            change = (model(moved).logits - model(batch).logits).abs().amax((0, 2))
        assert change[8:10].max() > 0 and bool(change[:8].max() == 0) is causal


def test_paper_tower_is_the_published_one():
    "QuickGELU, 16-pixel patches at 224: what OpenAI's weights expect."
    import open_clip

    config = SEVLMConfig.preset("paper")
    assert open_clip.get_model_config(config.tower)["quick_gelu"] and (config.image_size // 16) ** 2 == config.patches
    assert create_clip("tiny").visual.image_size == (32, 32)

"""The assembled model equals the reference implementation where it is set to do as published, number for number."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sevlm.core import SEVLMConfig
from sevlm.data import Batch
from sevlm.model import SEVLM, load_weights, own_weights
from sevlm.text import Special, span_masks
from sevlm.vision import ImageEncoder, create_clip

GOLDEN = Path(__file__).parent / "golden"
META = json.loads((GOLDEN / "meta.json").read_text())
SIZES = META["config"]
RENAMED = (  # the reference's names and ours
    ("decoder.transformer.VAD_linear.", "fusion.linear."), ("decoder.sim_mlp.pred.", "contrastive_head.mlp."), ("decoder.VAD_head.", "vad_head."),
    ("decoder.transformer.wpe.", "decoder.wpe."), ("emo_encoder.pos_encoder.", "vad_encoder.positions."),
    ("emo_encoder.encoder.layers.", "vad_encoder.layers."), ("emo_encoder.", "vad_encoder."), ("self_attention.", ""))
UNUSED = {"decoder.lm_head.weight", "emo_encoder.decoder.weight", "emo_encoder.decoder.bias"}  # tied; never called


def our_name(theirs: str) -> str:
    for old, new in RENAMED:
        theirs = theirs.replace(old, new)
    return theirs


@pytest.fixture(scope="module")
def golden() -> dict:
    return load_file(GOLDEN / "tensors.safetensors")


def golden_model(golden: dict, case: str) -> SEVLM:
    "The model of one case, with the reference's weights: every tensor used, none left over."
    on = META["cases"][case]
    config = SEVLMConfig.preset(
        "tiny", width=SIZES["d"], layers=SIZES["layers"], heads=SIZES["heads"], vocab_size=SIZES["vocab"], max_positions=SIZES["npos"],
        vad_positions=5000, vad_hidden=SIZES["vad_ff"], vad_layers=SIZES["vad_layers"], dropout=0.0, causal_vad=False, boundary="fixed",
        pad_in_span=True, use_fusion=on["vad_fusion"], use_vad_head=on["vad_loss"], use_contrast=on["contrastive"])
    model = SEVLM(config)
    theirs = {our_name(k[2:]): v for k, v in golden.items() if k.startswith("w.") and k[2:] not in UNUSED}
    own = own_weights(model)
    assert own.keys() <= theirs.keys()
    assert case != "full" or own.keys() == theirs.keys()
    return load_weights(model, {k: theirs[k] for k in own})


def golden_batch(golden: dict, case: str) -> Batch:
    ids, vad = golden["in.input_ids"], golden["in.vad"]
    special = Special(*(SIZES[k] for k in ("bos", "eos", "pad", "emotion", "explanation", "because")))
    emo_span, exp_span = span_masks(ids, special, boundary="fixed", include_pad=True)
    perms = [golden[k] for k in (f"out.{case}.neg_perm_first", f"out.{case}.neg_perm_second") if k in golden]
    return Batch(ids=ids, segs=golden["in.token_type_ids"], labels=golden["in.labels"], vad=vad, known=vad.ne(0).any(-1), emo_span=emo_span,
                 exp_span=exp_span, image_of=torch.arange(len(ids)) // 2, grid=golden["in.image_features"][::2],
                 neg_perm=torch.stack(perms) if perms else None)


@pytest.mark.parametrize("case", META["cases"])
def test_outputs_losses_and_gradients_equal_the_reference(golden, case):
    model, batch, expected = golden_model(golden, case), golden_batch(golden, case), META["cases"][case]
    out = model(batch)
    torch.testing.assert_close(out.hid, golden[f"out.{case}.last_hidden"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.logits, golden[f"out.{case}.logits"], rtol=1e-5, atol=1e-5)
    if expected["vad_fusion"]:
        torch.testing.assert_close(model.vad_encoder(batch.vad), golden[f"out.{case}.vad_encoding"], rtol=1e-5, atol=1e-5)
    for ours, theirs in (("total", "loss"), ("lm", "xe"), ("vad", "vad_mse"), ("con", "contrastive_loss")):
        if expected[theirs] is None:
            assert ours not in out.losses
        else:
            assert out.losses[ours].item() == pytest.approx(expected[theirs], rel=1e-5)
    out.losses["total"].backward()
    norms = {n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}
    for theirs, norm in expected["grad_norms"].items():
        if theirs not in UNUSED:
            assert norms[our_name(theirs)] == pytest.approx(norm, rel=1e-4, abs=1e-6), theirs


def test_causal_switch_is_what_separates_the_two_modes(golden):
    "With the mask, no logit before a word moves with its VAD; without it, as published, some do."
    published, batch = golden_model(golden, "full").eval(), golden_batch(golden, "full")
    corrected = SEVLM(published.config.replace(causal_vad=True)).eval()
    corrected.load_state_dict(published.state_dict())
    moved = Batch(**vars(batch))
    moved.vad = batch.vad.clone()
    moved.vad[:, 15:] = -moved.vad[:, 15:]
    with torch.no_grad():
        change = {name: (m(moved).logits - m(batch).logits).abs().amax((0, 2)) for name, m in (("published", published), ("corrected", corrected))}
    assert change["corrected"][:15].max() == 0 < change["corrected"][15:].max()
    assert change["published"][6:15].max() > 0


def test_vision_tower_equals_the_reference(golden):
    "Class token and patch tokens of a CLIP tower, through open_clip, with QuickGELU as the published tower has it."
    import open_clip

    v = META["vision"]
    clip = open_clip.CLIP(embed_dim=v["output_dim"], quick_gelu=v["activation"] == "quick_gelu", text_cfg=dict(context_length=8, vocab_size=16, width=16, heads=2, layers=1),
                          vision_cfg=dict(image_size=v["image_size"], patch_size=v["patch"], width=v["width"], layers=v["layers"],
                                          head_width=v["width"] // v["heads"]))
    clip.visual.load_state_dict({k.removeprefix("vision.w."): t for k, t in golden.items() if k.startswith("vision.w.")})
    encoder = ImageEncoder(SEVLMConfig.preset("tiny"))
    encoder.visual = clip.visual.eval()
    grid, cls = encoder(golden["vision.pixels"])
    torch.testing.assert_close(grid, golden["vision.grid"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cls, golden["vision.cls"], rtol=1e-5, atol=1e-5)


def test_paper_tower_is_the_published_one():
    "QuickGELU, 16-pixel patches at 224: what OpenAI's weights expect."
    import open_clip

    config = SEVLMConfig.preset("paper")
    assert open_clip.get_model_config(config.tower)["quick_gelu"] and (config.image_size // 16) ** 2 == config.patches
    assert create_clip("tiny").visual.image_size == (32, 32)

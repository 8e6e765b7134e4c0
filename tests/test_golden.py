"""Our model, losses, gradients, training steps, greedy tokens, image features and data set items equal the reference
implementation's.

The recording is `tests/golden`, or the folder named by the environment variable SEVLM_GOLDEN: another recording of
the same form, of
whatever sizes and seeds. Every size is read from its meta.json and tensors; nothing here knows a number of the
recording.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from ties import same_texts

from sevlm.config import EMOTIONS, PUBLISHED, SEVLMConfig, TrainConfig
from sevlm.data.batches import Batch, collate, pair
from sevlm.data.paintings import Painting
from sevlm.lexicon.token_table import VADTable
from sevlm.models.decoder import gpt2_config
from sevlm.models.generation import extend, next_logits
from sevlm.models.released import decoder_names, vad_encoder_names
from sevlm.models.sevlm import SEVLM, load_weights, own_weights
from sevlm.models.tokenizer import END, Special, encode_all, prompt_ids, read_bpe, segments, span_masks, special_ids
from sevlm.models.vision import ImageEncoder
from sevlm.training.learner import Learner, RecorderCB
from sevlm.training.run import make_optimiser

HERE = Path(__file__).parent
GOLDEN = Path(os.environ.get("SEVLM_GOLDEN") or HERE / "golden")
META = json.loads((GOLDEN / "meta.json").read_text(encoding="utf-8"))
DATASET = json.loads((GOLDEN / "dataset.json").read_text(encoding="utf-8"))
SIZES, CASES = META["config"], META["cases"]
SPECIAL = Special(*(SIZES[k] for k in ("bos", "eos", "pad", "emotion", "explanation", "because")))
UNUSED = {
    "decoder.lm_head.weight",
    "emo_encoder.decoder.weight",
    "emo_encoder.decoder.bias",
}  # tied to the word embedding; never called
OUTPUT, LOSS, GRADIENT, TRAINING = 1e-5, 1e-5, 1e-4, 1e-4  # relative
SMALLEST_GRADIENT = 1e-6  # below it a norm is rounding (a key's bias moves no softmax)
PROMPT = len(DATASET["eval"][0]["input_ids"])  # tokens from which greedy decoding started: <bos> the emotion is


@pytest.fixture(scope="module")
def golden() -> dict:
    return load_file(GOLDEN / "tensors.safetensors")


def equal(ours: torch.Tensor, theirs: torch.Tensor, what: str):
    "Largest difference relative to the largest value."
    assert ours.shape == theirs.shape, what
    assert (ours - theirs).abs().max() <= OUTPUT * theirs.abs().max(), what


def names(config: SEVLMConfig) -> dict[str, str]:
    "The reference's names of the trained tensors, as the recording has them, and ours."
    return {
        **{f"decoder.{k}": v for k, v in decoder_names(config).items()},
        **{f"emo_encoder.{k}": v for k, v in vad_encoder_names(config).items()},
    }


def published_model(golden: dict, case: str, **changed) -> SEVLM:
    "The model of one case, set as published, with the reference's weights."
    on = CASES[case]
    config = SEVLMConfig.preset(
        "tiny",
        **{
            **PUBLISHED,
            "width": SIZES["d"],
            "layers": SIZES["layers"],
            "heads": SIZES["heads"],
            "vocab_size": SIZES["vocab"],
            "max_positions": SIZES["npos"],
            "max_tokens": SIZES["seq_len"],
            "new_tokens": SIZES["npos"],
            "vad_positions": len(golden["w.emo_encoder.pos_encoder.weight"]),
            "vad_hidden": SIZES["vad_ff"],
            "vad_layers": SIZES["vad_layers"],
            "vad_heads": SIZES["vad_heads"],
            "dropout": SIZES["dropout"],
            "use_fusion": on["vad_fusion"],
            "use_vad_head": on["vad_loss"],
            "use_contrast": on["contrastive"],
            **changed,
        },
    )
    model = SEVLM(config)
    model.adapt = torch.nn.Identity()  # the recording begins behind the tower, at the decoder's own width
    gpt2 = gpt2_config(config)  # transformers' settings of the same decoder
    assert (gpt2.activation_function, SIZES["activation"]) == (
        "gelu_pytorch_tanh",
        "gelu_new",
    )  # one function under two names, the first computed in one pass
    assert {
        gpt2.layer_norm_epsilon,
        *(m.eps for m in model.decoder.modules() if isinstance(m, torch.nn.LayerNorm)),
    } == {SIZES["ln_eps"]}
    theirs = {ours: golden[f"w.{k}"] for k, ours in names(config).items()}
    assert own_weights(model).keys() == theirs.keys()
    return load_weights(model, theirs)


def batch_of(golden: dict, inputs: str, perms: str) -> Batch:
    "A recorded batch; spans and known words by our own rules, as published."
    vad = golden[f"{inputs}.vad"]
    ids = golden[f"{inputs}.input_ids"]
    emo_span, exp_span = span_masks(ids, SPECIAL, boundary="fixed", include_pad=True)
    drawn = [golden[k] for k in (f"{perms}.neg_perm_first", f"{perms}.neg_perm_second") if k in golden]
    return Batch(
        ids=ids,
        segs=golden[f"{inputs}.token_type_ids"],
        labels=golden[f"{inputs}.labels"],
        vad=vad,
        known=vad.ne(0).any(-1),
        emo_span=emo_span,
        exp_span=exp_span,
        image_of=torch.arange(len(ids)) // 2,
        grid=golden[f"{inputs}.image_features"][::2].contiguous(),
        neg_perm=torch.stack(drawn) if drawn else None,
    )


def test_every_recorded_weight_is_used(golden):
    """The name map of released checkpoints covers the recording: nothing left over but the three that the reference
    never calls."""
    on = SEVLMConfig.preset("tiny", layers=SIZES["layers"], vad_layers=SIZES["vad_layers"])
    recorded = {k.removeprefix("w.") for k in golden if k.startswith("w.")}
    assert recorded - names(on).keys() == UNUSED and names(on).keys() <= recorded
    assert torch.equal(golden["w.decoder.lm_head.weight"], golden["w.decoder.transformer.wte.weight"])


@pytest.mark.parametrize("case", CASES)
def test_outputs_losses_and_gradients(golden, case):
    model, batch, recorded = published_model(golden, case), batch_of(golden, "in", f"out.{case}"), CASES[case]
    out = model(batch)
    equal(out.hid, golden[f"out.{case}.last_hidden"], "last hidden states")
    equal(out.logits, golden[f"out.{case}.logits"], "logits")
    if recorded["vad_fusion"]:
        equal(model.vad_encoder(batch.vad), golden[f"out.{case}.vad_encoding"], "VAD encoding")
    for ours, theirs in (("total", "loss"), ("lm", "xe"), ("vad", "vad_mse"), ("con", "contrastive_loss")):
        assert (ours in out.losses) is (recorded[theirs] is not None), ours
        if recorded[theirs] is not None:
            assert out.losses[ours].item() == pytest.approx(recorded[theirs], rel=LOSS), ours
    out.losses["total"].backward()
    norms = {n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}
    ours = names(model.config)
    assert norms.keys() == {ours[k] for k in recorded["grad_norms"] if k not in UNUSED}
    for theirs, norm in recorded["grad_norms"].items():
        if theirs not in UNUSED:
            assert norms[ours[theirs]] == pytest.approx(norm, rel=GRADIENT, abs=SMALLEST_GRADIENT), theirs


def test_the_baseline_preset_is_the_baseline_case():
    "NLX-GPT's architecture: the same code with the three ideas off, by its name."
    preset, case = SEVLMConfig.preset("baseline"), CASES["baseline"]
    assert (
        (preset.use_fusion, preset.use_vad_head, preset.use_contrast)
        == (case["vad_fusion"], case["vad_loss"], case["contrastive"])
        == (False,) * 3
    )
    assert all(getattr(preset, k) == v == getattr(SEVLMConfig.preset("paper"), k) for k, v in PUBLISHED.items())


class Recorded(list):
    "Batches in the order of the recording."

    def set_epoch(self, epoch, start=0):
        assert epoch == start == 0


def test_training_steps(golden):
    "The project's own optimiser, schedule and loop, over the recorded batches."
    train = META["train"]
    recorded = torch.tensor(train["losses_total_xe_contrastive_vad"], dtype=torch.float64)
    eps, decay, *betas = map(
        float,
        re.fullmatch(r"AdamW\(eps=(.+?), weight_decay=(.+?), betas=\((.+?),(.+?)\)\)", train["optimizer"]).groups(),
    )
    settings = TrainConfig(
        lr_decoder=train["lr_decoder"],
        lr_heads=train["lr_decoder"],
        lr_vad=train["lr_emo_encoder"],
        adam_eps=eps,
        weight_decay=decay,
        device="cpu",
    )
    model = published_model(golden, "full")
    optimiser, schedule = make_optimiser(model, settings, len(recorded))
    assert all(list(g["betas"]) == betas for g in optimiser.param_groups)
    batches = Recorded(batch_of(golden, f"train.{step}", f"train.{step}") for step in range(len(recorded)))
    learner = Learner(model, batches, optimiser, schedule, callbacks=[recorder := RecorderCB()])
    learner.fit(1)
    ours = torch.tensor(recorder.frame("steps")[["total", "lm", "con", "vad"]].to_numpy())
    torch.testing.assert_close(ours, recorded, rtol=TRAINING, atol=0)
    assert all(g["lr"] == 0 for g in optimiser.param_groups)


GREEDY = sorted(META["greedy_because"])


@pytest.mark.parametrize("case", GREEDY)
def test_greedy_tokens(golden, case):
    "Token for token as published; the batch goes on to the last step whatever it says."
    model, special = published_model(golden, case).eval(), SPECIAL._replace(because=META["greedy_because"][case])
    tokens, vad = golden[f"greedy.{case}.tokens"], golden["in.vad_table"]
    table, grid = VADTable(vad, vad.ne(0).any(-1)), golden["in.image_features"][::2][: len(tokens)].contiguous()
    ours = extend(
        model,
        grid,
        tokens[:, :PROMPT],
        table,
        special,
        ends=torch.tensor([], dtype=torch.long),
        steps=tokens.shape[1] - PROMPT,
    )
    assert torch.equal(ours, tokens)
    assert torch.equal(segments(ours, special), golden[f"greedy.{case}.segments"])
    last = next_logits(model, ours[:, :-1], table(ours[:, :-1])[0], grid, special)
    equal(last, golden[f"greedy.{case}.last_logits"], "logits of the last step")


@pytest.mark.parametrize("case", GREEDY)
@pytest.mark.parametrize("boundary", ["because", "fixed"])
def test_greedy_with_cache_equals_without_in_the_corrected_mode(golden, case, boundary):
    model = published_model(golden, case, causal_vad=True, boundary=boundary, pad_in_span=False).eval()
    tokens, vad = golden[f"greedy.{case}.tokens"], golden["in.vad_table"]
    table, grid = VADTable(vad, vad.ne(0).any(-1)), golden["in.image_features"][::2][: len(tokens)].contiguous()
    special = SPECIAL._replace(because=META["greedy_because"][case])
    scores = lambda n, words: next_logits(model, words[None], table(words[None])[0], grid[n][None], special)[0]
    for ends in ([], [SPECIAL.eos, SPECIAL.pad, SPECIAL.emotion, SPECIAL.explanation]):
        said = [
            extend(
                model,
                grid,
                tokens[:, :PROMPT],
                table,
                special,
                torch.tensor(ends, dtype=torch.long),
                SIZES["npos"] - PROMPT,
                cached=c,
            )
            for c in (True, False)
        ]
        same_texts(*said, SPECIAL.pad, scores)
    assert said[0].shape[1] > PROMPT


def test_patch_tokens(golden):
    "Class token and patch tokens of a CLIP tower, through open_clip, with QuickGELU where the recording has it."
    import open_clip

    v = META["vision"]
    clip = open_clip.CLIP(
        embed_dim=v["output_dim"],
        quick_gelu=v["activation"] == "quick_gelu",
        text_cfg=dict(context_length=8, vocab_size=16, width=16, heads=2, layers=1),
        vision_cfg=dict(
            image_size=v["image_size"],
            patch_size=v["patch"],
            width=v["width"],
            layers=v["layers"],
            head_width=v["width"] // v["heads"],
        ),
    )
    clip.visual.load_state_dict(
        {k.removeprefix("vision.w."): t for k, t in golden.items() if k.startswith("vision.w.")}
    )
    encoder = ImageEncoder(SEVLMConfig.preset("tiny"))
    encoder.visual = clip.visual.eval()
    grid, cls = encoder(golden["vision.pixels"])
    equal(grid, golden["vision.grid"], "patch tokens")
    equal(cls, golden["vision.cls"], "class token")


@pytest.fixture(scope="module")
def tokenizer():
    "GPT-2's BPE with the four tokens added in the order of the recording."
    bpe = read_bpe(HERE / "gpt2_bpe")
    added = sorted((i, t) for t, i in DATASET["special_ids"].items() if t != END)
    bpe.add_tokens([t for _, t in added], special_tokens=True)
    assert {t: bpe.convert_tokens_to_ids(t) for t in DATASET["special_ids"]} == DATASET["special_ids"] and len(
        bpe
    ) == DATASET["vocab_size"]
    return bpe


@pytest.mark.parametrize("record", DATASET["train"], ids=lambda r: str(r["id"]))
def test_training_items(tokenizer, record):
    "Which annotations make the pair, and every token, id, label and segment."
    emotions, explanations = record["record"]["emotions"], record["record"]["explanations"]
    annotations = list(zip(emotions, explanations))
    first, second = ((record[k]["emotion"], record[k]["explanation"]) for k in ("first", "second"))
    painting = Painting("style", "painting", tuple(emotions), tuple(explanations), ("",) * len(emotions))
    drawn = [pair(painting, 0, np.random.default_rng(seed)) for seed in range(64)]
    assert {annotations[i] for i, _ in drawn} == {first}  # in turn, from the last
    assert second in {annotations[j] for _, j in drawn}  # by chance, of another emotion
    config = SEVLMConfig.preset("paper", max_tokens=DATASET["max_seq_len"], vocab_size=DATASET["vocab_size"])
    batch = collate(encode_all(tokenizer, [first, second], config.max_tokens), special_ids(tokenizer), config)
    assert batch.ids.tolist() == record["input_ids"]
    assert batch.labels.tolist() == record["labels"]
    assert batch.segs.tolist() == record["token_type_ids"]
    assert [tokenizer.convert_ids_to_tokens(row.tolist()) for row in batch.ids] == record["tokens"]


@pytest.mark.parametrize("item", DATASET["eval"])
def test_evaluation_items(tokenizer, item):
    ids = prompt_ids(tokenizer)
    assert ids == item["input_ids"] and tokenizer.convert_ids_to_tokens(ids) == item["tokens"]
    assert segments(torch.tensor(ids), special_ids(tokenizer)).tolist() == item["token_type_ids"]


def test_pieces_of_the_emotions(tokenizer):
    assert DATASET["emotion_token_counts"].keys() == set(EMOTIONS)
    for emotion, pieces in DATASET["emotion_token_counts"].items():
        assert tokenizer.tokenize(f" {emotion}") == pieces

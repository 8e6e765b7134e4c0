"""The front door: `sevlm.load` and what it returns, given whatever a user may hand in."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import sevlm
from sevlm.cli import main
from sevlm.config import EMOTIONS, SEVLMConfig
from sevlm.errors import CheckpointError, ConfigError, DataError, ImageError, LexiconError
from sevlm.images import image_of_array, open_image
from sevlm.models.card import recorded_scores
from sevlm.models.explainer import Explainer, checkpoint_of
from sevlm.models.generation import next_logits
from sevlm.models.sampling import Generation
from sevlm.models.sevlm import SEVLM, load_model, save_model
from sevlm.models.tokenizer import prompt_ids, special_ids
from sevlm.synthetic.paint import paint, random_scene
from sevlm.synthetic.words import mini_lexicon
from sevlm.utils import resolve_device, write_json


@pytest.fixture(scope="module")
def explain():
    return sevlm.load(device="cpu")


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(3)
    return paint(random_scene(rng), rng)


@pytest.fixture(scope="module")
def published(explain):
    "The shipped weights in the published mode, in which later words change what was known of earlier ones."
    config = explain.model.config.replace(causal_vad=False, boundary="fixed", pad_in_span=True)
    model = SEVLM(config)
    model.load_state_dict(explain.model.state_dict())
    return Explainer(model, explain.tokenizer, explain.table)


def same(a, b):
    "Equal answers; numbers up to rounding, since a batch sums in another order."
    assert (a.emotion, a.explanation) == (b.emotion, b.explanation)
    assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    assert [t.id for t in a.tokens] == [t.id for t in b.tokens]


def test_one_gives_one_and_a_list_a_list(explain, picture, tmp_path):
    file = tmp_path / "one.png"
    picture.save(file)
    one = explain(file)
    assert (
        not isinstance(one, list) and one.emotion in EMOTIONS and str(one) == f"{one.emotion} because {one.explanation}"
    )
    assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5) and one.image == file
    for given in (str(file), picture, np.asarray(picture), np.asarray(picture) / 255):
        same(explain(given), one)
    for given in ([file], (picture,), iter([str(file)]), [np.asarray(picture)], np.asarray(picture)[None], tmp_path):
        (answer,) = explain(given)
        same(answer, one)


def test_a_folder_in_batches(explain, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "below").mkdir()
    for n in range(5):
        paint(random_scene(rng), rng).save(tmp_path / ("below" if n % 2 else "") / f"{n}.png")
    answers = explain(tmp_path, batch_size=2)
    assert [a.image for a in answers] == sorted(tmp_path.rglob("*.png")) and len(answers) == 5
    for a, b in zip(answers, explain([a.image for a in answers])):
        same(a, b)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr", "HSV"])
def test_every_mode_is_handled_as_its_file_is(explain, picture, mode, tmp_path):
    if mode in ("I;16", "I"):
        image = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
        image = image if mode == "I;16" else image.convert("I")
    else:
        image = picture.convert(mode)
    answer = explain(image)
    file = tmp_path / ("x.jpg" if mode in ("CMYK", "YCbCr") else "x.tif" if mode in ("F", "I") else "x.png")
    if mode == "HSV":
        image = image.convert("RGB")
    image.save(file, **({"quality": 100, "subsampling": 0} if file.suffix == ".jpg" else {}))
    if file.suffix != ".jpg":  # a JPEG changes pixels
        same(explain(file), answer)
    assert open_image(file).mode == open_image(image).mode == "RGB" and answer.emotion in EMOTIONS


def test_orientation_is_applied_once(explain, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = picture.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.png", exif=exif)
    assert open_image(tmp_path / "turned.png").tobytes() == picture.tobytes()
    same(explain(Image.open(tmp_path / "turned.png")), explain(picture))


def test_an_animation_gives_its_first_frame(explain, picture, tmp_path):
    frames = [picture.quantize(), Image.new("RGB", picture.size).quantize()]
    frames[0].save(tmp_path / "anim.gif", save_all=True, append_images=frames[1:])
    same(explain([Image.open(tmp_path / "anim.gif")])[0], explain(tmp_path / "anim.gif"))


def test_the_command_line_says_the_same(explain, picture, tmp_path, capsys):
    from sevlm.cli import main

    for name, image in (("rgba.png", picture.convert("RGBA")), ("grey.png", picture.convert("L"))):
        image.save(tmp_path / name)
    assert main(["explain", str(tmp_path), "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    for said, answer in zip(told, explain(tmp_path), strict=True):
        assert said["image"] == str(answer.image)
        assert (said["emotion"], said["explanation"]) == (answer.emotion, answer.explanation)


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "empty list"),
        (torch.zeros(1, 64, 128), "Tensor; expected a path.*explain_patches"),
        (None, "NoneType; expected a path"),
        (7, "int; expected a path"),
        ([7], "int in the list"),
        ([0], "int in the list"),
        (["x.png", None], "NoneType in the list"),
        ("nowhere.jpg", "nowhere.jpg cannot be opened"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4), np.uint8), r"shape \(0, 4\)"),
        (np.zeros((4, 4), np.int64), "int64 is not a picture"),
        (np.full((4, 4), 255.0), "numbers from 255.0 to 255.0"),
        (np.full((4, 4), np.nan), "numbers from nan"),
    ],
)
def test_what_is_no_picture_is_refused_with_our_own_error(explain, given, message):
    with pytest.raises(ImageError, match=message):
        explain(given)


def test_files_that_are_no_pictures(explain, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no picture in"):
        explain(tmp_path / "empty")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    with pytest.raises(ImageError, match="bad.jpg"):
        explain([tmp_path / "bad.jpg"])


def test_arrays_are_read_by_shape_and_type():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert image_of_array(grey).tobytes() == image_of_array(grey[..., None]).tobytes()
    assert image_of_array(grey.astype(np.uint16) * 257).tobytes() == image_of_array(grey).tobytes()
    assert image_of_array(grey / 255).tobytes() == image_of_array(grey).tobytes()
    assert image_of_array(np.zeros((3, 4, 4), np.uint8)).mode == "RGBA"


def test_options_are_checked(explain, picture):
    with pytest.raises(DataError, match="'feer'.*Did you mean 'fear'"):
        explain(picture, emotion="feer")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        explain(picture, batch_size=0)
    with pytest.raises(ConfigError, match="device 'gpu'"):
        sevlm.load(device="gpu")
    with pytest.raises(ConfigError, match="lemmas"):
        sevlm.load(lemmas="wordnet")


def test_settings_of_generation_one_by_one_or_as_an_object(explain, picture, tmp_path):
    how = Generation(sample=True, temperature=1.5, seed=4)
    answer = explain(picture, generation=how)
    same(explain(picture, sample=True, temperature=1.5, seed=4), answer)
    same(explain(picture, generation=how.of(how, seed=1), seed=4), answer)
    (patches,) = explain.explain_patches(explain.encode_images([picture]), generation=how)
    same(patches, answer)
    assert answer.probabilities == pytest.approx(explain(picture).probabilities, abs=1e-6)
    assert "".join(explain.stream(picture, generation=how)) == str(answer)
    with pytest.raises(ConfigError, match="'beem'.*Did you mean 'beams'"):
        explain(picture, beem=3)
    with pytest.raises(ConfigError, match="new_tokens is 0"):
        explain(picture, new_tokens=0)
    with pytest.raises(DataError, match="'feer'"):
        explain.stream(picture, emotion="feer")
    with pytest.raises(ImageError):
        explain.stream(tmp_path)


def test_an_emotion_that_is_asked_for(explain, picture):
    answer, free = explain(picture, emotion="fear"), explain(picture)
    assert answer.emotion == "fear" and answer.tokens[0].text == " fear" and answer.tokens[1].text == " because"
    assert answer.probabilities == pytest.approx(free.probabilities, abs=1e-6)


@pytest.mark.parametrize("which", ["explain", "published"])
@pytest.mark.parametrize(
    "emotion, how",
    [
        (None, {}),
        ("something else", {}),
        (None, dict(beams=3, length_penalty=0.5)),
        ("fear", dict(sample=True, temperature=1.5, top_p=0.9, repetition_penalty=1.2, seed=3)),
    ],
)
def test_tokens_hold_what_the_model_knew_when_it_wrote_them(which, emotion, how, picture, request):
    "Against the whole text up to each token, read from scratch; probabilities are the model's, however it wrote."
    explainer = request.getfixturevalue(which)
    other = paint(random_scene(np.random.default_rng(8)), np.random.default_rng(8))
    answers = explainer([picture, other], emotion=emotion, attention=True, **how)
    model, table, special = explainer.model, explainer.table, special_ids(explainer.tokenizer)
    for image, answer in zip((picture, other), answers):
        text = "".join(t.text for t in answer.tokens).strip()
        assert text == str(answer) and not {special.eos, special.pad} & {t.id for t in answer.tokens}
        grid = explainer.encode_images([image])
        ids = torch.tensor([[*prompt_ids(explainer.tokenizer), *(t.id for t in answer.tokens)]])
        vad, known = table(ids)
        start = len(prompt_ids(explainer.tokenizer))
        for n, token in enumerate(answer.tokens, start):
            scores = next_logits(model, ids[:, :n], vad[:, :n], grid, special).log_softmax(-1)
            assert token.log_probability == pytest.approx(float(scores[0, token.id]), abs=1e-3)
            assert token.vad == pytest.approx(vad[0, n].tolist()) and token.known == bool(known[0, n])
            assert len(token.predicted_vad) == 3
        L, H, T, P = answer.attention.shape
        config = model.config
        assert (L, H, T, P) == (config.layers, config.heads, len(answer.tokens), config.patches)
        assert torch.allclose(answer.attention.sum(-1), torch.ones(L, H, T), atol=1e-5)


def test_predicted_vad_is_the_heads_and_absent_without_one(explain, picture):
    answer = explain(picture)
    known = [t for t in answer.tokens if t.known]
    assert known and any(t.predicted_vad != t.vad for t in known)
    config = explain.model.config.replace(use_vad_head=False)
    model = SEVLM(config)
    state = {k: v for k, v in explain.model.state_dict().items() if not k.startswith("vad_head")}
    model.load_state_dict(state)
    plain = Explainer(model, explain.tokenizer, explain.table)(picture)
    assert {t.predicted_vad for t in plain.tokens} == {None} and str(plain) == str(answer)


def test_parts_are_left_out_when_not_asked_for(explain, picture):
    bare = explain(picture, probabilities=False, tokens=False)
    assert (
        bare.probabilities == {} and bare.tokens == () and bare.attention is None and str(bare) == str(explain(picture))
    )


def test_another_lexicon(explain, picture, tmp_path):
    file = tmp_path / "my.tsv"
    file.write_text("word\tvalence\tarousal\tdominance\nsea\t-0.9\t0.8\t-0.5\nsky\t0.9\t0.1\t0.2\n", encoding="utf-8")
    mine = explain.with_lexicon(file)
    assert mine.model is explain.model and mine.table.known_pieces < explain.table.known_pieces
    (sea,) = explain.tokenizer(" sea").input_ids
    assert mine.table.vad[sea].tolist() == pytest.approx([-0.9, 0.8, -0.5]) and mine(picture).emotion in EMOTIONS
    assert torch.equal(sevlm.load(lexicon=file, device="cpu").table.vad, mine.table.vad)
    assert torch.equal(explain.with_lexicon(sevlm.Lexicon(mini_lexicon())).table.vad, explain.table.vad)
    with pytest.raises(LexiconError):
        explain.with_lexicon(tmp_path / "nothing.tsv")


def test_a_run_folder_gives_its_best_checkpoint(explain, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        sevlm.load(tmp_path)
    for name in ("last", "best-accuracy"):
        explain.save_pretrained(tmp_path / name)
        assert checkpoint_of(tmp_path) == tmp_path / name
    assert sevlm.load(tmp_path, device="cpu").model.config == explain.model.config
    for device in ("auto", None, "cpu"):
        loaded = sevlm.load(tmp_path) if device is None else sevlm.load(tmp_path, device=device)
        assert loaded.device == resolve_device(device or "auto")
    assert Explainer(explain.model, explain.tokenizer, explain.table, "auto").device == resolve_device("auto")
    explain.model.to(explain.device)
    for wrong in ("nowhere", tmp_path / "nowhere", "a/b/c"):
        with pytest.raises(CheckpointError, match="neither a folder nor the id"):
            sevlm.load(wrong)


@pytest.mark.parametrize("place", [".", "last", "best-accuracy"])
def test_the_command_line_takes_what_load_takes(explain, picture, place, tmp_path, capsys):
    "A run and a checkpoint; both take the same model of a run, which has two."
    other = SEVLM(explain.model.config.replace(name="other", new_tokens=5))
    other.load_state_dict(explain.model.state_dict())
    Explainer(other, explain.tokenizer, explain.table).save_pretrained(tmp_path / "run" / "last")
    explain.save_pretrained(tmp_path / "run" / "best-accuracy")
    picture.save(tmp_path / "one.png")
    source = tmp_path / "run" / place
    assert main(["explain", str(tmp_path / "one.png"), "--checkpoint", str(source), "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    answer = sevlm.load(source)(tmp_path / "one.png")
    assert (said["emotion"], said["explanation"]) == (answer.emotion, answer.explanation)
    assert said["probabilities"] == pytest.approx(answer.probabilities, abs=1e-6)
    assert (sevlm.load(source).model.config.name == "other") == (place == "last")
    for nothing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError):
            sevlm.load(nothing)
        assert main(["explain", str(tmp_path / "one.png"), "--checkpoint", str(nothing)]) == 2


def test_a_model_of_one_token_answers_nothing_and_does_not_fail(explain):
    "Its text ends at once: the end of a text has the largest logit everywhere."
    model = SEVLM(SEVLMConfig.preset("tiny", vocab_size=len(explain.tokenizer), new_tokens=1))
    with torch.no_grad():
        last = model.decoder.transformer["ln_f"]
        last.weight.zero_()
        last.bias.fill_(1.0)
        model.decoder.wte.weight.zero_()
        model.decoder.wte.weight[special_ids(explain.tokenizer).eos] = 1.0
    answer = Explainer(model, explain.tokenizer, explain.table)(Image.new("RGB", (9, 9)), attention=True)
    assert answer.tokens == () and answer.explanation == "" and answer.attention.shape[2] == 0


def test_importing_sevlm_loads_nothing_heavy():
    code = (
        "import sys, sevlm; before = {'torch', 'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules);"
        "names = [n for n in sevlm.__all__ if getattr(sevlm, n) is None]; print(before, names, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set() [] True"
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = sevlm.laod
    assert {"load", "SEVLM", "__version__"} <= set(dir(sevlm))


# ---- publishing: to a folder, and to a hub on this machine


@pytest.fixture(scope="module")
def secret(explain):
    "The shipped model with a lexicon that may not be passed on."
    words = dict.fromkeys(("sea", "sky", "boat", "calm"), (0.1, 0.2, 0.3))
    return explain.with_lexicon(sevlm.Lexicon(words, source="NRC-VAD-Lexicon.txt"))


def test_a_saved_explainer_stands_alone_and_its_lexicon_stays_if_it_is_free(explain, picture, tmp_path):
    explain.save_pretrained(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "vad_table.safetensors", "lexicon.json", "README.md"} <= names
    for again in (sevlm.load(tmp_path, device="cpu"), Explainer.from_pretrained(tmp_path)):
        same(again(picture), explain(picture))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "synthetic" in card and "emotion accuracy" in card and "library_name: sevlm" in card
    assert (tmp_path / "metrics.json").is_file()


def test_a_lexicon_that_may_not_be_passed_on_is_left_out_and_asked_for(secret, picture, tmp_path):
    secret.save_pretrained(tmp_path)
    assert not (tmp_path / "vad_table.safetensors").exists()
    assert "0.1" not in (tmp_path / "lexicon.json").read_text(encoding="utf-8") and "**not** published" in (
        tmp_path / "README.md"
    ).read_text(encoding="utf-8")
    with pytest.raises(LexiconError, match="NRC-VAD-Lexicon.txt.*may not be passed on.*lexicon="):
        sevlm.load(tmp_path)
    lexicon = tmp_path / "mine.tsv"
    lexicon.write_text("".join(f"{w}\t0.1\t0.2\t0.3\n" for w in ("sea", "sky", "boat", "calm")), encoding="utf-8")
    same(
        sevlm.load(tmp_path, lexicon=sevlm.Lexicon.read(lexicon, scale="bipolar"), device="cpu")(picture),
        secret(picture),
    )
    with pytest.warns(UserWarning, match="not the lexicon that .* was trained with"):
        sevlm.load(tmp_path, lexicon=sevlm.Lexicon(mini_lexicon()), device="cpu")


def test_a_model_alone_and_strictly(explain, tmp_path):
    explain.model.save_pretrained(tmp_path)
    again = SEVLM.from_pretrained(tmp_path)
    assert again.config == explain.model.config and not again.training
    assert all(torch.equal(v, explain.model.state_dict()[k]) for k, v in again.state_dict().items())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_contrast": False}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="contrastive_head"):
        SEVLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_contrst": False}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="use_contrst"):
        SEVLM.from_pretrained(tmp_path)


def test_a_tower_that_is_a_file_goes_along(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    first = SEVLM(SEVLMConfig.preset("tiny"))
    file = tmp_path / "my tower.safetensors"
    save_file({k: v.contiguous() for k, v in first.encoder.visual.state_dict().items()}, file)
    first.config = first.config.replace(tower_pretrained=str(file))
    first.save_pretrained(tmp_path / "saved")
    file.unlink()
    again = SEVLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in again.state_dict().items())
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")


def test_a_checkpoint_with_a_random_tower_is_whole(tmp_path):
    "The tower is written beside the weights; a checkpoint of an earlier version, without it, is refused."
    first = SEVLM(SEVLMConfig.preset("tiny"))
    save_model(first, tmp_path / "one")
    save_model(load_model(tmp_path / "one"), tmp_path / "two")
    load_model(tmp_path / "one").save_pretrained(tmp_path / "three")
    for name in ("one", "two", "three"):
        again = load_model(tmp_path / name)
        assert all(torch.equal(v, first.state_dict()[k]) for k, v in again.state_dict().items()), name
    assert SEVLMConfig.load(tmp_path / "three" / "config.json").tower_pretrained == "tower.safetensors"
    first.config.save(tmp_path / "one" / "config.json")  # as earlier versions wrote it
    (tmp_path / "one" / "tower.safetensors").unlink()
    with pytest.raises(CheckpointError, match="random weights.*--tower FILE"):
        load_model(tmp_path / "one")
    assert load_model(tmp_path / "one", first.encoder).encoder is first.encoder
    with pytest.raises(CheckpointError, match="fingerprint was"):
        load_model(tmp_path / "one", SEVLM(first.config).encoder)


def test_scores_on_the_card_are_those_of_the_checkpoint(explain, tmp_path):
    "A run's own metrics.json may be another checkpoint's: `sevlm demo` evaluates its last."
    scores = {"BLEU-4": dict(value=0.125, n=3, interval=[0.1, 0.2], note="")}
    for place in (tmp_path, tmp_path / "best-accuracy"):
        save_model(explain.model, place)
    write_json(tmp_path / "metrics.json", {"scores": scores})
    card_of = lambda folder: str(load_model(folder).generate_model_card())
    assert "No scores were recorded" in card_of(tmp_path / "best-accuracy")
    assert "| BLEU-4 | 0.125 | 0.100 to 0.200 | 3 |" in card_of(tmp_path)
    load_model(tmp_path / "best-accuracy").save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "metrics.json").exists()


@pytest.mark.parametrize(
    "found",
    [
        {"about": {}, "scores": {"bleu": 0.3}},
        {"about": 3, "scores": {}},
        {"scores": [1]},
        {"bleu": 0.3},
        {"scores": {"bleu": {"value": "high", "n": 3}}},
        {"scores": {"bleu": {"value": 0.3, "n": 3, "interval": 5}}},
    ],
)
def test_scores_that_are_none(found, tmp_path):
    write_json(tmp_path / "metrics.json", found)
    with pytest.raises(CheckpointError, match="metrics.json does not hold scores"):
        recorded_scores(tmp_path)


def test_from_pretrained_takes_what_load_and_the_hub_take(explain, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import hub_mixin

    from sevlm.models import hub

    explain.save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **how: asked.append(how) or str(tmp_path))
    monkeypatch.setattr(hub_mixin, "hf_hub_download", lambda **how: str(tmp_path / "config.json"))
    monkeypatch.setattr(hub, "ask_hub", lambda: None)
    lexicon = sevlm.Lexicon({"sea": (0.1, 0.2, 0.3)})
    how = dict(revision="r", token="t", cache_dir=str(tmp_path), force_download=True, local_files_only=True)
    again = Explainer.from_pretrained("owner/name", lexicon=lexicon, device="cpu", **how)
    assert asked and {k: asked[0][k] for k in how} == how
    assert str(again.device) == "cpu" and again.table.digest() == explain.with_lexicon(lexicon).table.digest()
    with pytest.raises(ConfigError, match="'lexicn'.*Did you mean 'lexicon'"):
        Explainer.from_pretrained(tmp_path, lexicn=lexicon)


def test_the_released_look_up_stays_and_is_no_table(explain, tmp_path):
    "An explainer whose words NLTK looks up: with another lexicon it stays one; it is not saved, and says so first."
    from sevlm.lexicon.coverage import NltkLemmas, NltkTable

    lemmas = NltkLemmas(lambda pieces: [(p, "NN") for p in pieces], lambda p, pos: p)
    table = NltkTable(explain.tokenizer, sevlm.Lexicon({"sea": (0.1, 0.2, 0.3)}), lemmas)
    nltk = Explainer(explain.model, explain.tokenizer, table)
    other = nltk.with_lexicon(sevlm.Lexicon({"sky": (0.1, 0.2, 0.3)}, source="another"))
    assert isinstance(other.table, NltkTable) and other.table.lemmas is lemmas
    assert "another" in str(other.generate_model_card())
    with pytest.raises(ConfigError, match="no table"):
        other.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.safetensors"))


PUSH = """
import sys, sevlm
explain = sevlm.load(device="cpu")
if sys.argv[1] == "secret":
    explain = explain.with_lexicon(sevlm.Lexicon({"sea": (.1, .2, .3), "calm": (.2, .1, 0.)}, source="NRC"))
print(explain.push_to_hub("owner/tiny", token="hf_x"))
"""
PULL = """
import sevlm
from sevlm.errors import LexiconError
print(len(sevlm.SEVLM.from_pretrained("owner/tiny").state_dict()))
try:
    print(sevlm.load("owner/tiny", device="cpu")("figures/example.jpg"))
except LexiconError as e:
    print(e)
"""


@pytest.mark.parametrize("kind", ["free", "secret"])
def test_to_a_hub_and_back(kind, tmp_path, explain):
    "A server on this machine takes the upload of one process and serves it to the next."
    from localhub import serve

    with serve(tmp_path / "repo", tmp_path / "home") as (server, run):
        ran = run([sys.executable, "-c", PUSH, kind])
        assert ran.returncode == 0, ran.stderr
        stored = {p.name for p in (tmp_path / "repo").iterdir()}
        assert {"model.safetensors", "config.json", "README.md", "lexicon.json", "tokenizer.json"} <= stored
        assert ("vad_table.safetensors" in stored) == (kind == "free")
        picture = tmp_path / "figures" / "example.jpg"
        picture.parent.mkdir()
        Image.new("RGB", (64, 64), "navy").save(picture)
        ran = run([sys.executable, "-c", PULL], cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        tensors, answer = ran.stdout.strip().splitlines()
        assert int(tensors) == len(explain.model.state_dict())
        assert answer == str(explain(picture)) if kind == "free" else "may not be passed on" in answer

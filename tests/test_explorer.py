"""The explorer without a browser: what is asked of the model, the panels, and every control, set as a hand would."""

import asyncio
import io
import json
import re
import threading
import xml.etree.ElementTree as ET
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from sevlm.app import panels
from sevlm.app.explorer import CHOICE, KEPT_PIXELS, NONE, OWN, UPLOADED, Explorer, Latest, open_upload, result_of
from sevlm.app.panels import STRIP, explorer_figure, figure_bytes, percent, place_of, small_copy
from sevlm.app.reading import (
    CANDIDATES,
    DRAWS,
    Candidate,
    Draft,
    EncodedPicture,
    Reading,
    Word,
    cover,
    describe_model,
    draft_words,
    encode_picture,
    finish,
    first_felt,
    known_odds,
    occlude,
    other_ways,
    paint_canvas,
    read_painting,
    record_of,
    sample_paintings,
    sample_scenes,
    token_texts,
    under_each_emotion,
    word_groups,
    write_words,
)
from sevlm.config import EMOTIONS, SEVLMConfig
from sevlm.errors import ConfigError, DataError, ImageError
from sevlm.lexicon.token_table import VADTable
from sevlm.models.decoder import cross_attention
from sevlm.models.explainer import Answer, Explainer, Token
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import encode, load_tokenizer, segments, span_masks, special_ids
from sevlm.plot import spotlight
from sevlm.synthetic.paint import VALUES
from sevlm.utils import asset

PAGE = Path(__file__).resolve().parent.parent / "nbs" / "course" / "15_explorer.ipynb"


@pytest.fixture(scope="module")
def tiny():
    "A random tiny model: quick, and as good as any for what is tested here."
    torch.manual_seed(0)
    tokenizer = load_tokenizer(asset("mini"))
    model = SEVLM(SEVLMConfig.preset("tiny", vocab_size=len(tokenizer)))
    return Explainer(model, tokenizer, VADTable.load(asset("mini/vad_table.safetensors")))


@pytest.fixture(scope="module")
def shipped():
    from sevlm.models.explainer import load

    return load(device="cpu")


@pytest.fixture(scope="module")
def reading(shipped):
    return read_painting(shipped, sample_paintings(1)[0].image)


@pytest.fixture
def page(tiny):
    return Explorer(tiny, n=3, at_once=True)


def words(text, **kw):
    return tuple(
        Word(w, (Candidate(w, 0.5), Candidate("other", 0.25)), 0.5, (0.1, 0.2, 0.3), True, (0.0, 0.1, 0.2), **kw)
        for w in text.split()
    )


def png(size=(50, 30), mode="RGB", colour="red", kind="PNG"):
    Image.new(mode, size, colour).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def upload(page, content, name="x.png"):
    page.controls["upload"].value = (
        {
            "name": name,
            "type": "image/png",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime(2026, 1, 1),
        },
    )


def drawings(value):
    "The drawings of a panel, which are well-formed and have a text alternative."
    found = [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", value, re.S)]
    assert all(root.get("role") == "img" and len(root.get("aria-label")) > 20 for root in found)
    return found


# ------------------------------------------------------------------------------------------------------- reading


def test_samples_depend_on_seed_and_place_only():
    few, many = sample_paintings(2, seed=3), sample_paintings(5, seed=3)
    assert [s[:3] for s in few] == [s[:3] for s in many[:2]]
    assert len({s.label for s in many}) == 5 and many[0].scene != sample_paintings(1, seed=4)[0].scene
    assert paint_canvas(few[1].scene, few[1].canvas).tobytes() == few[1].image.tobytes()
    assert [(s.label, s.scene) for s in many] == sample_scenes(5, seed=3)


def test_odds_are_known_of_synthetic_scenes_and_the_nine_emotions_only():
    scene = sample_scenes(1)[0][1]
    odds = known_odds(scene, EMOTIONS)
    assert list(odds) == list(EMOTIONS) and sum(odds.values()) == pytest.approx(1)
    assert known_odds(None, EMOTIONS) is None and known_odds(scene, ("calm", "tense")) is None


@pytest.mark.parametrize("emotion", [None, "fear", "something else"])
def test_words_as_they_are_written_are_those_of_the_answer(shipped, emotion):
    image = sample_paintings(1)[0].image
    encoded = encode_picture(shipped, image)
    drafts = list(write_words(shipped, encoded.grid, emotion))
    named, found = draft_words(drafts[-1])
    assert f"{named} because {' '.join(w.text for w in found)}" == str(shipped(image, emotion))
    assert all(len(w.candidates) == CANDIDATES for w in found)
    assert all(w.candidates == tuple(sorted(w.candidates, key=lambda c: -c.probability)) for w in found)
    assert all(len(b.texts) == len(a.texts) + 1 for a, b in zip(drafts, drafts[1:]))
    with pytest.raises(DataError, match="fear"):
        next(write_words(shipped, encoded.grid, "feer"))


def test_a_reading_holds_what_the_model_knew(shipped, reading):
    answer = shipped(reading.image, attention=True)
    assert reading.asked is None and str(reading.answer) == str(answer)
    assert list(reading.answer.probabilities) == list(EMOTIONS)
    assert " ".join(w.text for w in reading.words) == answer.explanation
    whole = [t for t in answer.tokens if t.text.strip() in {w.text for w in reading.words if w.known}]
    assert {t.text.strip(): t.vad for t in whole if t.known} == {w.text: w.vad for w in reading.words if w.known}
    assert all(w.vad == (0, 0, 0) for w in reading.words if not w.known)
    assert all(0 < w.probability <= 1 and len(w.predicted) == 3 for w in reading.words)
    assert np.prod([w.probability for w in reading.words]) <= 1
    fear = read_painting(shipped, reading.image, "fear")
    assert fear.asked == fear.answer.emotion == "fear"
    assert fear.answer.probabilities == reading.answer.probabilities


def test_attention_of_a_word_is_the_row_that_chose_it(shipped, reading):
    "Against the whole text, encoded by the training code."
    ids = torch.tensor([encode(shipped.tokenizer, reading.answer.emotion, reading.answer.explanation, 64).ids])
    special = special_ids(shipped.tokenizer)
    emb = shipped.model.embed(ids, segments(ids, special), shipped.table(ids)[0], span_masks(ids, special)[1])
    rows = cross_attention(shipped.model.decoder, emb, reading.encoded.grid)[0].numpy()  # [L, H, T, P]
    at = ids[0].tolist().index(special.because)
    for i, word in enumerate(reading.words):
        assert np.allclose(word.attention, rows[:, :, at], atol=1e-5), word.text
        assert np.allclose(reading.attention_of(i, 0, 1), rows[0, 1, at], atol=1e-5)
        assert np.allclose(reading.attention_of(i), rows[:, :, at].mean((0, 1)), atol=1e-5)
        assert np.allclose(reading.attention_of(i, head=1), rows[:, 1, at].mean(0), atol=1e-5)
        at += len(shipped.tokenizer(" " + word.text).input_ids)


def test_tokens_make_words():
    texts = [" something", " else", " because", " the", " d", "oom", ".", " "]
    assert word_groups(texts) == [[3], [4, 5, 6]] and word_groups([" awe"]) == word_groups([]) == []
    emotion, found = draft_words(Draft(tuple(texts[:5]), ((),) * 5))
    assert emotion == "something else" and [w.text for w in found] == ["the", "d"]
    assert draft_words(Draft((), ())) == ("", [])


def test_letters_of_several_tokens_are_whole(shipped):
    tokenizer = shipped.tokenizer
    text = " because the café in 東京 is naïve"
    ids = tokenizer(text).input_ids
    assert any("\ufffd" in tokenizer.decode([i]) for i in ids)  # a letter of several tokens
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids) and "".join(texts) == text
    emotion, found = draft_words(Draft(tuple(texts), ((),) * len(texts)))
    assert [w.text for w in found] == text.split()[1:]
    broken = next(i for i in ids if tokenizer.decode([i]).endswith("\ufffd"))
    for some in ([broken], [*ids, broken], [broken, *ids]):  # bytes that are no letter are shown as such
        assert "".join(token_texts(tokenizer, some)) == tokenizer.decode(some)
    assert token_texts(tokenizer, []) == []


def test_a_reading_has_whole_letters(shipped, monkeypatch):
    "A model that writes é of two tokens."
    ids = shipped.tokenizer(" awe because the café").input_ids
    tokens = tuple(Token(shipped.tokenizer.decode([i]), i, (0, 0, 0), False, None, -1.0) for i in ids)
    answer = Answer("awe", "the café", {}, tokens)
    monkeypatch.setattr(Explainer, "explain_patches", lambda *args, **kw: [answer])
    image = Image.new("RGB", (9, 9))
    found = finish(shipped, image, EncodedPicture(None, None, {}), Draft((), ()), None)
    assert [w.text for w in found.words] == ["the", "café"]


def test_texts_that_do_not_fit_are_refused_before_the_first_token(tiny):
    model = SEVLM(tiny.model.config.replace(new_tokens=tiny.model.config.max_positions - 2))
    long = Explainer(model, tiny.tokenizer, tiny.table)
    grid = encode_picture(long, Image.new("RGB", (9, 9))).grid
    for write in (lambda: next(write_words(long, grid)), lambda: under_each_emotion(long, grid)):
        with pytest.raises(ConfigError, match="positions"):
            write()


def test_covering_covers_what_is_named_and_nothing_else(shipped, reading):
    pixels, side = reading.encoded.pixels, reading.encoded.pixels.shape[-1] // 8
    covered = cover(pixels, [0, 63], 64)
    assert not covered[:, :side, :side].any() and not covered[:, -side:, -side:].any()
    assert torch.equal(covered[:, side:-side], pixels[:, side:-side]) and torch.equal(cover(pixels, [], 64), pixels)
    weights = reading.attention_of(0)
    found = occlude(shipped, reading, weights, k=5, draws=4)
    assert set(found.brightest.patches) == set(np.argsort(-weights, kind="stable")[:5].tolist())
    assert len(found.drawn) == 4 and all(len(set(s.patches)) == 5 for s in found.drawn)
    assert len({s.patches for s in found.drawn}) > 1 and 0 <= found.further <= 4
    grid = shipped.model.adapt(shipped.model.encoder(cover(pixels, found.brightest.patches, 64)[None])[0])
    (answer,) = shipped.explain_patches(grid, tokens=False)
    before, after = (np.array(list(p.values())) for p in (reading.answer.probabilities, answer.probabilities))
    assert found.brightest.moved == pytest.approx(abs(after - before).sum() / 2, abs=1e-4)
    assert all(0 <= s.moved <= 1 and 0 <= s.same <= 1 for s in (found.brightest, *found.drawn))
    assert occlude(shipped, reading, weights, 5, 4) == found  # the lot depends on the seed
    for k in (0, 65):
        with pytest.raises(ConfigError, match="1 to 64"):
            occlude(shipped, reading, weights, k)
    with pytest.raises(ConfigError, match="at least 1"):
        occlude(shipped, reading, weights, 5, draws=0)


def test_covering_nothing_that_matters_moves_nothing(shipped, reading):
    "All patches covered are the same for every draw, and the same as for the brightest."
    found = occlude(shipped, reading, reading.attention_of(0), k=64, draws=2)
    assert [shift.moved for shift in found.drawn] == pytest.approx([found.brightest.moved] * 2, abs=1e-4)


def test_other_sentences(shipped, reading):
    texts = under_each_emotion(shipped, reading.encoded.grid)
    assert list(texts) == list(EMOTIONS) and all(texts.values()) and len(set(texts.values())) > 1
    ways = list(other_ways(shipped, reading.encoded.grid))
    assert str(ways[0].answer) == str(reading.answer) and len({a.way for a in ways}) == len(ways) == 5
    again = list(other_ways(shipped, reading.encoded.grid))
    assert [str(a.answer) for a in again] == [str(a.answer) for a in ways]
    asked = next(other_ways(shipped, reading.encoded.grid, "fear"))
    assert asked.answer.emotion == "fear" and asked.log_probability > -100
    tokens = asked.answer.tokens
    assert asked.log_probability > sum(t.log_probability for t in tokens)  # what was given does not count


def test_a_record_is_plain_data_and_says_that_scenes_are_synthetic(shipped, reading):
    scene = sample_scenes(1)[0][1]
    record = record_of(shipped, reading, scene, 0, {"layer": 4}, occlude(shipped, reading, reading.attention_of(0), 3))
    assert json.loads(json.dumps(record)) == record and "synthetic" in record["statement"]
    assert record["picture"]["scene"] == scene.to_dict() and record["known odds"].keys() == set(EMOTIONS)
    assert len(record["occlusion"]["drawn by lot"]) == DRAWS and record["settings"]["layer"] == 4
    assert record["model"]["config"]["width"] == 128 and record["under each emotion"] is None
    assert record_of(shipped, reading)["known odds"] is None
    assert str(Path.home()) not in json.dumps(describe_model(shipped))  # no path of this machine


@pytest.mark.parametrize(
    "place, name",
    [
        ("runs/demo/best-accuracy", "demo/best-accuracy"),
        ("runs/demo/last", "demo/last"),
        ("mine", "mine"),
        ("assets/mini", "mini"),
    ],
)
def test_a_checkpoint_is_named_by_its_run_and_only_the_shipped_one_is_shipped(shipped, monkeypatch, place, name):
    assert describe_model(shipped)["checkpoint"] == "the small model shipped with sevlm"
    monkeypatch.setattr(shipped.model, "source", Path("elsewhere") / place)
    about = describe_model(shipped)
    assert about["checkpoint"] == name and about["trained on synthetic paintings only"] is None


# -------------------------------------------------------------------------------------------------------- panels


def test_bars_tell_their_numbers_and_mark_the_known_odds():
    p = {"awe": 0.75, "fear": 0.25}
    (drawn,) = drawings(panels.bars_panel(p, {"awe": 0.5, "fear": 0.5}, "awe"))
    assert drawn.get("aria-label") == (
        "Probabilities of the emotions. awe 75 %, known odds 50 %; fear 25 %, known odds 50 %."
    )
    assert len(drawn.findall("{*}polygon")) == 2 and len(drawn.findall("{*}rect")) == 2
    (plain,) = drawings(panels.bars_panel(p))
    assert not plain.findall("{*}polygon") and "odds" not in panels.bars_panel(p)
    assert percent(0.5) == "50 %" and percent(0.012) == "1.2 %"


def test_words_are_buttons_and_escaped():
    value = panels.words_panel("<i>awe", [Word('"><script>alert(1)</script>'), *words("calm")], 1)
    assert "<script" not in value and "<i>" not in value and value.count("<button") == 2
    assert value.count('aria-pressed="true"') == 1 and 'data-choose="1"' in value
    assert "(no reason was written)" in panels.words_panel("awe", [])
    for name in ("candidates_panel", "vad_panel"):
        odd = getattr(panels, name)(Word("<b>&", (Candidate("<u>&", 0.5),), vad=(9, -9, 0), known=True))
        assert "<b>" not in odd and "<u>" not in odd and drawings(odd)
    assert "<b>" not in panels.table_panel([Word("<b>")]) + panels.plane_panel([Word("<b>", known=True)], 0)


def test_dictionary_and_prediction_differ_in_shape():
    word = words("calm")[0]
    (drawn,) = drawings(panels.vad_panel(word))
    assert len(drawn.findall("{*}circle")) == 3 and len(drawn.findall("{*}rect")) == 3
    assert "dictionary +0.10, predicted +0.00" in drawn.get("aria-label")
    (unknown,) = drawings(panels.vad_panel(word._replace(known=False)))
    assert not unknown.findall("{*}circle") and "not in the lexicon" in panels.vad_panel(word._replace(known=False))
    assert "no VAD head" in panels.vad_panel(word._replace(predicted=None))
    (plane,) = drawings(panels.plane_panel([word, Word("the")], 0))
    assert len(plane.findall("{*}circle")) == 1 and len(plane.findall("{*}rect")) == 1
    assert "1 calm valence +0.10 arousal +0.20" in plane.get("aria-label")


def test_labels_of_the_plane_do_not_meet():
    same = [Word(f"word{i}", vad=(0.1, 0.1, 0), known=True) for i in range(9)]
    (drawn,) = drawings(panels.plane_panel(same, None))
    boxes = [
        (float(t.get("x")), float(t.get("y")), t.text) for t in drawn.findall("{*}text") if t.get("font-size") == "12"
    ]
    assert 1 <= len(boxes) < 9 and len({b[:2] for b in boxes}) == len(boxes)
    assert all(f"word{i}" in drawn.get("aria-label") for i in range(9))  # the words say them all the same


def test_a_picture_says_what_it_shows_and_where_it_is_lit(reading):
    weights = np.zeros(64)
    weights[0] = 1
    small = small_copy(reading.image)
    value = panels.picture_panel(small, "a <boat>", "sea", weights)
    assert 'alt="a &lt;boat&gt;, lit where the model looked for the word sea: brightest at the top left' in value
    assert 'alt="a &lt;boat&gt;"' in panels.picture_panel(small, "a <boat>")
    assert [place_of(i, 9) for i in (0, 4, 8)] == ["top left", "middle centre", "bottom right"]
    for size in ((9000, 30), (30, 9000), (800, 600), (5, 5), (1, 2000), (2000, 1), (1, 801), (2, 3000), (1, 600)):
        small = small_copy(Image.new("RGB", size))
        assert max(small.size) <= panels.SIDE and min(small.size) >= 1
        covered = panels.covered_copy(small, range(64), 64)
        assert (np.asarray(covered) == panels.COVER[0]).all() and max(covered.size) == 120


def test_spotlight_darkens_where_nobody_looks():
    lit = np.asarray(spotlight(Image.new("RGB", (64, 32), (200, 200, 200)), np.eye(16)[5]))
    assert lit.shape == (32, 64, 3) and lit.max() > 170 and lit[-1, -1].max() < 40
    y, x = np.unravel_index(lit[..., 0].argmax(), (32, 64))
    assert 8 <= y < 16 and 16 <= x < 32  # patch 5 of 4 x 4: second row, second column


def test_the_saved_path_goes_through_every_word(tiny):
    "Also through one that comes twice."
    reading = read_painting(tiny, Image.new("RGB", (9, 9)))
    attention = np.full((tiny.model.config.layers, tiny.model.config.heads, tiny.model.config.patches), 0.1)
    a, b = (Word(t, vad=(v, v, v), known=True, attention=attention) for t, v in (("a", 0.1), ("b", 0.7)))
    (plane,) = (ax for ax in explorer_figure(replace(reading, words=(a, b, a))).subfigs[0].axes[2:])
    assert plane.lines[0].get_xdata().tolist() == pytest.approx([0.1, 0.7, 0.1])
    assert [t.get_text() for t in plane.texts] == ["a", "b"]


def test_the_check_is_told_as_it_came_out(shipped, reading):
    found = occlude(shipped, reading, reading.attention_of(0), 4)
    still = found._replace(brightest=found.brightest._replace(moved=-1.0))
    far = found._replace(brightest=found.brightest._replace(moved=1.0))
    assert "the place mattered" in panels.occlusion_verdict(far) and "hint, not a cause" in panels.occlusion_verdict(
        still
    )
    value = panels.occlusion_panel(found, small_copy(reading.image), 64)
    (drawn,) = drawings(value)
    assert len(drawn.findall("{*}circle")) == DRAWS and len(drawn.findall("{*}polygon")) == 1
    assert value.count("<img") == value.count('alt="the picture with') == 2


@pytest.mark.parametrize(
    "emotion, explanation",
    [("awe", ""), ("", ""), ("$x_{ $", "$\\frac \ufffd $ <b>"), ("awe", " ".join(["whistleable"] * 40))],
)
def test_whatever_a_bad_model_writes_is_drawn(tiny, emotion, explanation):
    encoded = encode_picture(tiny, image := Image.new("RGB", (90, 40)))
    config = tiny.model.config
    attention = np.full((config.layers, config.heads, config.patches), 1 / config.patches)
    made = words(explanation, attention=attention)
    odd = Reading(image, None, Answer(emotion, explanation, encoded.probabilities), made, encoded)
    assert figure_bytes(explorer_figure(odd), "png").startswith(b"\x89PNG")
    value = panels.words_panel(emotion, made, 0) + panels.plane_panel(made, 0) + panels.table_panel(made)
    assert drawings(value) and "<b>" not in value
    json.dumps(record_of(tiny, odd))


def test_figure_shows_what_the_reading_says(reading):
    odds = known_odds(sample_scenes(1)[0][1], EMOTIONS)
    word = len(reading.words) - 1
    top, low = explorer_figure(reading, word, odds).subfigs
    assert reading.answer.explanation in " ".join(top.get_suptitle().split())
    picture, shares, plane = top.axes
    assert np.allclose([b.get_width() for b in shares.patches], list(reading.answer.probabilities.values()))
    assert np.allclose(shares.lines[0].get_xdata(), list(odds.values()))
    assert {t.get_text() for t in plane.texts} == {w.text for w in reading.words if w.known}
    titles = [ax.get_title().split("\n")[0] for ax in low.axes if ax.get_title()]
    assert titles == [w.text for w in reading.words][-STRIP:]
    figure = explorer_figure(reading)
    assert figure_bytes(figure, "svg") == figure_bytes(figure, "svg") and b"<svg" in figure_bytes(figure, "svg")


# ------------------------------------------------------------------------------------------------------ the page


def test_upload_of_pictures_and_of_other_bytes():
    for content in (png(), png(kind="JPEG"), png(mode="RGBA", colour=(255, 0, 0, 0)), png(mode="L", colour=9)):
        image = open_upload(memoryview(content))
        assert image.mode == "RGB" and image.size == (50, 30)
    for bad in (b"", b"hello", png()[:60]):
        with pytest.raises(ImageError, match="JPEG or PNG") as error:
            open_upload(bad)
        assert f"{len(bad)} bytes" in str(error.value) and "0x" not in str(error.value)


def test_choosing_a_sample_sets_the_controls(page):
    for label, scene in page.samples.items():
        page.controls["picture"].value = label
        assert page.scene() == scene and page.controls["picture"].value == label
        assert page.reading.image.tobytes() == paint_canvas(scene, page.controls["canvas"].value).tobytes()


@pytest.mark.parametrize("name", ["subject", "second", *VALUES, "canvas"])
def test_every_scene_control_repaints(page, name):
    control, before = page.controls[name], page.reading.image.tobytes()
    others = {k: c.value for k, c in page.controls.items() if k not in (name, "picture")}
    taken = page.scene().subjects
    control.value = (
        control.value + 1
        if name == "canvas"
        else next(o for o in control.options if o != control.value and o not in taken)
    )
    assert page.reading.image.tobytes() != before and page.controls["picture"].value == OWN and not page.message.value
    assert {k: page.controls[k].value for k in others} == others
    assert page.reading.image.tobytes() == paint_canvas(page.scene(), page.controls["canvas"].value).tobytes()


def test_emotion_control_asks_and_stops_asking(page):
    assert page.reading.asked is None
    bars = page.reading.answer.probabilities
    for value in ("fear", "something else", None):
        page.controls["emotion"].value = value or CHOICE
        assert page.reading.asked == value and page.reading.answer.probabilities == bars
        assert value is None or page.reading.answer.emotion == value


def test_a_picture_is_encoded_once(page, monkeypatch):
    from sevlm.app import explorer

    looked = []
    monkeypatch.setattr(explorer, "encode_picture", lambda *args: looked.append(1) or encode_picture(*args))
    page.controls["emotion"].value = "fear"
    page.views[0].controls["layer"].index = 0
    page.views[0].controls["occlude"].click()
    assert not looked
    page.controls["canvas"].value += 1
    assert len(looked) == 1


@pytest.fixture
def shipped_page(shipped):
    return Explorer(shipped, n=2, at_once=True)


def test_a_pressed_word_moves_what_belongs_to_it_only(shipped_page):
    page, view = shipped_page, shipped_page.views[0]
    reading, before = page.reading, {name: panel.value for name, panel in view.panels.items()}
    assert view.word == first_felt(reading)
    view.panels["said"].chosen = last = len(reading.words) - 1
    assert page.reading is reading and view.word == last
    changed = {name for name, panel in view.panels.items() if panel.value != before[name]}
    assert changed == {"said", "candidates", "vad", "plane", "picture"}
    assert f'data-choose="{last}" aria-pressed="true"' in view.panels["said"].value


@pytest.mark.parametrize("name", ["layer", "head"])
def test_layer_and_head_move_the_light_only(shipped_page, name):
    view = shipped_page.views[0]
    before = {key: panel.value for key, panel in view.panels.items()}
    control = view.controls[name]
    control.value = next(v for _, v in control.options if v != control.value)
    assert {key for key, panel in view.panels.items() if panel.value != before[key]} == {"picture"}


@pytest.mark.parametrize(
    "button, panel",
    [
        ("occlude", "occlusion"),
        ("emotions", "emotions"),
        ("ways", "ways"),
        *[(k, "file") for k in ("png", "svg", "json")],
    ],
)
def test_what_is_asked_for_comes_and_goes_with_the_picture(shipped_page, button, panel):
    page, view = shipped_page, shipped_page.views[0]
    assert not view.panels[panel].value
    view.controls[button].click()
    assert view.panels[panel].value and not page.message.value
    page.controls["canvas"].value += 1
    assert not view.panels[panel].value and not view.extras


def test_files_hold_what_is_shown(shipped_page):
    import base64

    page, view = shipped_page, shipped_page.views[0]
    view.controls["emotions"].click()
    view.controls["layer"].index = 1
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("json", b"{")):
        view.controls[kind].click()
        name, data = re.search(
            r'download="([^"]+)" href="data:[\w/+]+;base64,([^"]+)"', view.panels["file"].value
        ).groups()
        assert name == f"sevlm-explorer.{kind}" and base64.b64decode(data).startswith(start)
    record = json.loads(base64.b64decode(data))
    assert record["settings"]["layer"] == 1 and record["picture"]["scene"] == page.scene().to_dict()
    assert (
        record["under each emotion"].keys() == set(EMOTIONS)
        and record["answer"]["emotion"] == page.reading.answer.emotion
    )


def test_uploads(page):
    upload(page, png(colour="blue"))
    assert page.controls["picture"].value == UPLOADED and not page.message.value
    assert page.reading.image.getpixel((3, 3)) == (0, 0, 255) and "◆" not in page.views[0].panels["bars"].value
    page.controls["picture"].index = 0
    assert page.reading.image.size == (256, 256) and "◆" in page.views[0].panels["bars"].value
    page.controls["picture"].value = UPLOADED
    assert page.reading.image.size == (50, 30)
    upload(page, png(colour="green"))  # a second one, while the first is shown
    assert page.reading.image.getpixel((3, 3)) == (0, 128, 0)
    page.controls["picture"].index = 0
    upload(page, png(colour="green"))  # the same file again
    assert page.reading.image.getpixel((3, 3)) == (0, 128, 0)
    page.controls["weather"].value = next(w for w in VALUES["weather"] if w != page.controls["weather"].value)
    assert page.controls["picture"].value == OWN and page.reading.image.size == (256, 256)


def test_pasted_pictures_and_other_things(page, monkeypatch):
    sent = []
    monkeypatch.setattr(page.paste, "send", lambda content: sent.append(content))
    page.paste._handle_custom_msg({"name": "clip.png"}, [memoryview(png(colour="blue"))])
    assert page.controls["picture"].value == UPLOADED and page.reading.image.getpixel((3, 3)) == (0, 0, 255)
    assert sent == [{}] and "A file may have 10 MB" in "".join(
        getattr(w, "value", "") for w in leaves(page.show()) if hasattr(w, "kind")
    )
    page.receive("", b"")
    assert "is empty (0 bytes)" in page.message.value and page.reading.image.size == (50, 30)
    page.receive("x", png(colour="red"))
    assert not page.message.value and page.reading.image.getpixel((3, 3)) == (255, 0, 0)


def test_an_upload_can_be_removed(page):
    page.clear.click()
    assert not page.message.value  # there was none
    upload(page, png())
    page.clear.click()
    assert "the upload was cleared" in page.message.value and page.reading.image.size == (50, 30)
    page.controls["picture"].index = 0
    assert not page.message.value
    page.controls["picture"].value = UPLOADED
    assert "no picture has been uploaded" in page.message.value


def test_a_very_large_picture_is_kept_reduced(page):
    upload(page, png(size=(2500, 2000), kind="JPEG"))
    w, h = page.reading.image.size
    assert w * h <= KEPT_PIXELS and w / h == pytest.approx(1.25, abs=0.01) and not page.message.value
    assert page.uploaded.image is page.reading.image


def test_errors_are_text_on_the_page_and_go_away(page):
    upload(page, b"<b>not a picture</b>")
    assert "not a picture" in page.message.value and "<b>not" not in page.message.value  # escaped
    assert page.reading.image.size == (256, 256)
    page.controls["picture"].value = UPLOADED
    assert "no picture has been uploaded" in page.message.value
    page.controls["picture"].index = 1
    assert not page.message.value
    page.controls["second"].value = page.controls["subject"].value
    assert "one or two different" in page.message.value
    page.controls["second"].value = NONE
    assert not page.message.value and len(page.scene().subjects) == 1


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 600)])
def test_a_line_is_a_picture_too(shipped_page, size):
    page = shipped_page
    upload(page, png(size))
    page.views[0].controls["occlude"].click()
    assert page.reading.image.size == size and "defect" not in page.message.value
    assert "<img" in page.views[0].panels["occlusion"].value


def test_an_answer_that_breaks_off_is_not_mixed_with_another(page, monkeypatch):
    first = page.views[0].record()
    monkeypatch.setattr(panels, "bars_panel", lambda *args: open_upload(b""))
    page.controls["picture"].index = 1
    assert "is empty" in page.message.value and "last answer" not in page.message.value
    assert not any(panel.value for panel in page.views[0].panels.values())  # nothing of either
    monkeypatch.undo()
    page.controls["picture"].index = 0
    assert page.views[0].record() == first and not page.message.value
    assert page.views[0].panels["bars"].value and page.views[0].panels["picture"].value


def test_an_upload_that_fails_in_any_way_is_forgotten(page, monkeypatch):
    from sevlm.app import explorer

    def full(*args):
        raise MemoryError("no room")

    for what in ("open_upload", "upload_notices"):
        monkeypatch.setattr(explorer, what, full)
        with pytest.raises(MemoryError):
            page.receive("x", png())
        assert "no room" in page.message.value and "last answer" in page.message.value
        page.controls["emotion"].value = "fear" if page.reading.asked is None else CHOICE  # and goes on
        assert not page.message.value
        monkeypatch.undo()


def test_a_check_keeps_what_it_was_made_with(shipped_page):
    page, view = shipped_page, shipped_page.views[0]
    view.panels["said"].chosen, view.controls["layer"].index, view.controls["head"].index = 0, 2, 1
    view.controls["occlude"].click()
    word = page.reading.words[0].text
    assert f"attention of word 1, “{word}”; layer: 2; head: 1" in view.panels["occlusion"].value
    view.panels["said"].chosen, view.controls["layer"].index = 1, 1
    record = view.record()
    check = {name: record["occlusion"][name] for name in ("word", "layer", "head")}
    assert check == {"word": 1, "layer": 2, "head": 1}
    assert record["settings"]["word"] == 2 and record["settings"]["layer"] == 1


@pytest.mark.parametrize(
    "where, act",
    [
        ("encode_picture", lambda page: page.controls["canvas"].set_trait("value", 77)),
        ("finish", lambda page: page.controls["emotion"].set_trait("value", "anger")),
    ],
)
def test_errors_that_are_not_ours_are_shown_and_raised(shipped_page, monkeypatch, where, act):
    from sevlm.app import explorer

    page = shipped_page

    def broken(*args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(explorer, where, broken)
    with pytest.raises(ZeroDivisionError):
        act(page)
    assert "a bug" in page.message.value and "defect of sevlm" in page.message.value
    monkeypatch.undo()
    page.controls["emotion"].value = "awe"  # the page is alive again
    assert not page.message.value and page.reading.asked == "awe"


def test_errors_of_callbacks_are_shown(shipped_page, monkeypatch):
    from sevlm.app import explorer

    monkeypatch.setattr(explorer, "occlude", lambda *args: 1 / 0)
    shipped_page.views[0].controls["occlude"].click()  # ipywidgets logs what a button's callback raises
    assert "division by zero" in shipped_page.message.value
    shipped_page.controls["canvas"].value += 1
    assert not shipped_page.message.value
    monkeypatch.setattr(panels, "picture_panel", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shipped_page.views[0].controls["layer"].index = 0
    assert "division by zero" in shipped_page.message.value


def leaves(widget):
    return [x for child in widget.children for x in leaves(child)] if hasattr(widget, "children") else [widget]


def test_page_holds_every_control_and_panel(page):
    view = page.views[0]
    shown = set(leaves(page.show()))
    wanted = {*page.controls.values(), page.message, page.paste, page.clear}
    assert wanted | {*view.controls.values(), *view.panels.values()} <= shown
    classes = [c for control in (*page.controls.values(), *view.controls.values()) for c in control._dom_classes]
    assert len(classes) == len(set(classes)) == len(page.controls) + len(view.controls)  # each can be found
    assert page.message.live and view.panels["said"].live


def test_two_models_stand_side_by_side(tiny, shipped):
    page = Explorer(shipped, other=tiny, names=("one", "<two>"), n=2, at_once=True)
    first, second = page.views
    assert page.explainer is shipped and second.reading.words is not None
    assert first.reading.image.tobytes() == second.reading.image.tobytes()
    page.controls["emotion"].value = "fear"
    assert first.reading.answer.emotion == second.reading.answer.emotion == "fear"
    texts = [w.value for w in leaves(page.show()) if hasattr(w, "kind")]
    assert "<h2>one</h2>" in texts and "<h2>&lt;two&gt;</h2>" in texts
    upload(page, png())
    assert first.shown.image.size == second.shown.image.size == (50, 30)


def test_emotions_that_all_models_know_are_offered(tiny):
    emotions = ("calm", "fear", "tense")
    model = SEVLM(tiny.model.config.replace(emotions=emotions))
    page = Explorer(tiny, other=Explainer(model, tiny.tokenizer, tiny.table), n=1, at_once=True)
    assert page.controls["emotion"].options == (CHOICE, "fear")
    page.controls["emotion"].value = "fear"
    assert [view.reading.asked for view in page.views] == ["fear", "fear"] and not page.message.value


def test_every_model_has_a_name(tiny):
    with pytest.raises(ValueError, match="shorter"):
        Explorer(tiny, other=tiny, names=("x",), at_once=True)


async def until(there):
    "Wait for what the page will do."
    while not there():
        await asyncio.sleep(0.001)


def in_loop(tiny, hand):
    "A page in a running event loop, with its first answer; `hand(page, settled)` uses it."

    async def use():
        page = Explorer(tiny, n=3)
        settled = lambda: until(lambda: not page.latest.busy and not page.views[0].latest.busy)
        await settled()
        await hand(page, settled)
        return page

    return asyncio.run(asyncio.wait_for(use(), 100))


def test_a_dropped_answer_is_not_mixed_with_another(tiny):
    async def hand(page, settled):
        view, control = page.views[0], page.controls["picture"]
        first = view.record()
        for there in (lambda: True, lambda: view.shown is not None, lambda: view.panels["said"].busy):
            control.index = 1
            await until(lambda: page.latest.busy and view.reading is None)
            await until(there)
            control.index = 0
            await settled()
            assert view.record() == first and not view.panels["said"].busy

    in_loop(tiny, hand)


def test_what_is_dropped_leaves_nothing_that_is_half(tiny):
    async def hand(page, settled):
        view = page.views[0]
        for button in ("emotions", "ways"):
            panel = view.panels[button]
            view.controls[button].click()
            await until(lambda: panel.value)  # it says that it is at work
            view.controls["json"].click()
            await settled()
            assert not panel.value and view.panels["file"].value and not view.extras
        page.controls["canvas"].value += 1
        await until(lambda: view.panels["said"].busy)
        page.controls["second"].value = page.controls["subject"].value  # no such scene
        await settled()
        assert "one or two different" in page.message.value and "last answer" not in page.message.value
        assert not view.panels["said"].value and not view.panels["said"].busy

    in_loop(tiny, hand)


@pytest.fixture
def gate(monkeypatch):
    "Uploads are opened, and looked through, only when it is open; `gate.opened` has what was asked for."
    from sevlm.app import explorer

    gate = threading.Event()
    gate.opened = []
    for what in ("open_upload", "upload_notices"):
        work = getattr(explorer, what)
        monkeypatch.setattr(
            explorer, what, lambda *args, w=what, work=work: gate.opened.append(w) or gate.wait(100) and work(*args)
        )
    yield gate
    gate.set()


def test_a_removed_upload_stays_away(tiny, gate):
    async def hand(page, settled):
        first = page.shown
        page.receive("x", png())  # removed while it is opened
        await until(lambda: "Reading x" in page.message.value)
        page.clear.click()
        gate.set()
        await settled()
        assert page.uploaded is None and page.shown is first and not page.message.value
        gate.clear()
        page.receive("x", png())
        await until(lambda: gate.opened.count("open_upload") == 2)
        gate.set()
        await until(lambda: page.uploaded is not None)
        gate.clear()  # removed while it is looked through
        await until(lambda: "upload_notices" in gate.opened)
        page.clear.click()
        gate.set()
        await settled()
        assert page.uploaded is None and "the upload was cleared" in page.message.value

    in_loop(tiny, hand)


def test_a_choice_gives_up_an_upload_and_a_question_does_not(tiny, gate):
    async def hand(page, settled):
        page.receive("x", png())
        for emotion in ("fear", "awe", CHOICE):  # it is opened once, whatever else is moved
            await until(lambda: "Reading x" in page.message.value)
            page.controls["emotion"].value = emotion
            await asyncio.sleep(0.03)
        gate.set()
        await settled()
        assert gate.opened == ["open_upload", "upload_notices"] and page.controls["picture"].value == UPLOADED
        for name, value in (("picture", list(page.samples)[1]), ("canvas", 77)):
            gate.clear()
            page.receive("y", png())
            await until(lambda: "Reading y" in page.message.value)
            page.controls[name].value = value
            gate.set()
            await settled()
            assert page.controls[name].value == value and page.shown.scene == page.scene() and not page.message.value

    in_loop(tiny, hand)


def test_work_in_a_thread_is_waited_for_in_steps():
    future = Future()
    steps = result_of(future)
    next(steps)
    future.set_result(3)
    with pytest.raises(StopIteration) as done:
        next(steps)
    assert done.value.value == 3
    failed = Future()
    failed.set_exception(TimeoutError("of the work"))  # and no sign that it goes on
    with pytest.raises(TimeoutError, match="of the work"):
        next(result_of(failed))


def test_the_last_state_wins(tiny):
    "In a running event loop: what is moved while an answer is computed is answered last, and nothing is queued."
    painted = []

    async def hand():
        page = Explorer(tiny, n=2)
        while page.latest.busy:
            await asyncio.sleep(0.001)
        forget = page.views[0].forget
        page.views[0].forget = lambda: painted.append(page.controls["canvas"].value) or forget()
        for canvas in range(20, 40):
            page.controls["canvas"].value = canvas
            await asyncio.sleep(0.002)
        page.views[0].controls["emotions"].click()  # waits for the sentence
        while page.latest.busy or page.views[0].latest.busy:
            await asyncio.sleep(0.001)
        return page

    page = asyncio.run(hand())
    assert page.shown.key == (page.scene(), 39) and painted[-1] == 39 and len(set(painted)) < 20
    assert page.reading.image.tobytes() == paint_canvas(page.scene(), 39).tobytes()
    assert page.views[0].panels["emotions"].value and not page.message.value


def test_steps_are_dropped_and_errors_told():
    told, done = [], []

    def steps(name, n, error=None):
        for i in range(n):
            done.append((name, i))
            yield
        if error:
            raise error

    async def hand():
        latest = Latest(told.append)
        latest.start(lambda: steps("a", 1000))
        await asyncio.sleep(0.05)
        latest.start(lambda: steps("b", 2, ValueError("x")))
        while latest.busy:
            await asyncio.sleep(0.001)

    asyncio.run(hand())
    assert [d for d in done if d[0] == "b"] == [("b", 0), ("b", 1)] and len(done) < 500
    assert [str(e) for e in told] == ["x"]


def test_shipped_model_reads_a_painting():
    page = Explorer(n=1, at_once=True)
    assert page.reading.answer.emotion in EMOTIONS and page.reading.words and isinstance(page.reading, Reading)


@pytest.mark.skipif(not PAGE.exists(), reason="the notebooks are not beside the tests")
def test_notebook_keeps_a_picture_and_no_widgets():
    """A stored widget shows as an error where no kernel runs (run nbclient with store_widget_state=False, or delete
    metadata.widgets)."""
    nb = json.loads(PAGE.read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"], "widget state is stored in the metadata of the notebook"
    kinds = [kind for c in nb["cells"] for o in c.get("outputs", []) for kind in o.get("data", {})]
    assert not [k for k in kinds if "widget" in k] and "image/png" in kinds

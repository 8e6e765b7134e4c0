"""The explorer without a browser: plain functions on a stub that always gives the same answer, then every control,
set as a hand would."""

import io
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sevlm.app.explorer import (
    CHOICE,
    NONE,
    OWN,
    STRIP,
    UPLOADED,
    Explorer,
    Reading,
    explorer_figure,
    first_felt,
    open_upload,
    paint_canvas,
    read_painting,
    sample_paintings,
    spotlight,
    word_attention,
    word_vad,
)
from sevlm.config import EMOTIONS, SEVLMConfig
from sevlm.errors import DataError, ImageError
from sevlm.lexicon.token_table import VADTable
from sevlm.models.explainer import Answer, Explainer
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import encode, load_tokenizer, special_ids
from sevlm.synthetic.paint import VALUES
from sevlm.utils import asset

PAGE = Path(__file__).resolve().parent.parent / "nbs" / "course" / "15_explorer.ipynb"
REASON = "the calm sea and the sky make me feel peaceful"


class Stub(Explainer):
    "Real patches and probabilities of a random tiny model; the text is given."

    emotion, explanation = "awe", REASON

    def explain_patches(self, grid, emotion=None, **kw):
        (answer,) = super().explain_patches(grid, emotion, **kw)
        return [Answer(emotion or self.emotion, self.explanation, answer.probabilities)]


@pytest.fixture(scope="module")
def stub():
    torch.manual_seed(0)
    tokenizer = load_tokenizer(asset("mini"))
    model = SEVLM(SEVLMConfig.preset("tiny", vocab_size=len(tokenizer)))
    return Stub(model, tokenizer, VADTable.load(asset("mini/vad_table.safetensors")))


@pytest.fixture
def page(stub):
    return Explorer(stub, n=3)


def png(size=(50, 30), mode="RGB", colour="red", kind="PNG"):
    Image.new(mode, size, colour).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def upload(page, content):
    page.controls["upload"].value = (
        {
            "name": "x.png",
            "type": "image/png",
            "size": len(content),
            "content": memoryview(content),
            "last_modified": datetime(2026, 1, 1),
        },
    )


def test_samples_depend_on_seed_and_place_only():
    few, many = sample_paintings(2, seed=3), sample_paintings(5, seed=3)
    assert [s[:3] for s in few] == [s[:3] for s in many[:2]]
    assert len({s.label for s in many}) == 5 and many[0].scene != sample_paintings(1, seed=4)[0].scene
    assert paint_canvas(few[1].scene, few[1].canvas).tobytes() == few[1].image.tobytes()


def test_words_are_whole_words_of_the_table(stub):
    words = word_vad("the calm sea is unwhistleable", stub.tokenizer, stub.table)
    assert [w.text for w in words] == ["the", "calm", "sea", "is", "unwhistleable"]
    (piece,) = stub.tokenizer(" calm").input_ids
    assert words[1].known and np.allclose(words[1].vad, stub.table.vad[piece])
    assert len(stub.tokenizer(" unwhistleable").input_ids) > 1
    assert words[-1][1:] == ((0.0, 0.0, 0.0), False) and not words[0].known
    assert word_vad("", stub.tokenizer, stub.table) == []


def test_a_word_in_pieces_is_unknown_even_if_its_first_piece_is_known(stub):
    starts = [p is not None and p.startswith("Ġ") for p in stub.tokenizer.convert_ids_to_tokens(range(len(stub.table)))]
    table = VADTable(torch.ones(len(stub.table), 3), torch.tensor(starts))
    calm, split = word_vad("calm unwhistleable", stub.tokenizer, table)
    assert calm.known and calm.vad == (1, 1, 1) and not split.known


def test_attention_of_a_word_is_the_row_that_chose_it(stub):
    "Against the whole text, encoded by the training code."
    from sevlm.models.decoder import cross_attention
    from sevlm.models.tokenizer import segments, span_masks

    image, text = paint_canvas(sample_paintings(1)[0].scene, 0), "the unwhistleable sea is calm"
    for emotion in ("awe", "something else"):
        grid = stub.encode_images([image])
        mine = word_attention(stub, grid, Answer(emotion, text, {}))
        ids, special = torch.tensor([encode(stub.tokenizer, emotion, text, 64).ids]), special_ids(stub.tokenizer)
        emb = stub.model.embed(ids, segments(ids, special), stub.table(ids)[0], span_masks(ids, special)[1])
        rows = cross_attention(stub.model.decoder, emb, grid)[0, -1].mean(0).numpy()
        at = ids[0].tolist().index(special.because)
        for word, row in zip(text.split(), mine):
            assert np.allclose(row, rows[at], atol=1e-5), word
            at += len(stub.tokenizer(" " + word).input_ids)
        assert ids[0, at + 1] == special.eos and np.allclose(mine.sum(1), 1, atol=1e-5)


def test_reading(stub):
    image = sample_paintings(1)[0].image
    own, fear = read_painting(stub, image), read_painting(stub, image, "fear")
    assert own.asked is None and own.answer.emotion == "awe" and fear.asked == fear.answer.emotion == "fear"
    assert list(own.answer.probabilities) == list(EMOTIONS) and own.answer.probabilities == fear.answer.probabilities
    assert len(own.words) == len(REASON.split()) == len(own.attention) and own.words[first_felt(own)].text == "calm"
    with pytest.raises(DataError, match="fear"):
        read_painting(stub, image, "feer")


@pytest.mark.parametrize(
    "emotion, explanation",
    [("awe", ""), ("", ""), ("$x_{ $", "$\\frac \ufffd $"), ("awe", " ".join(["whistleable"] * 40))],
)
def test_whatever_a_bad_model_writes_is_read_and_drawn(stub, emotion, explanation, monkeypatch):
    monkeypatch.setattr(Stub, "emotion", emotion)
    monkeypatch.setattr(Stub, "explanation", explanation)
    reading = read_painting(stub, Image.new("RGB", (90, 40)))
    assert len(reading.words) == len(reading.attention) <= 64
    explorer_figure(reading).savefig(io.BytesIO(), format="png")


def test_spotlight_darkens_where_nobody_looks():
    lit = np.asarray(spotlight(Image.new("RGB", (64, 32), (200, 200, 200)), np.eye(16)[5]))
    assert lit.shape == (32, 64, 3) and lit.max() > 170 and lit[-1, -1].max() < 40
    y, x = np.unravel_index(lit[..., 0].argmax(), (32, 64))
    assert 8 <= y < 16 and 16 <= x < 32  # patch 5 of 4 x 4: second row, second column


def test_figure_shows_what_the_reading_says(stub):
    reading = read_painting(stub, sample_paintings(1)[0].image, "fear")
    top, low = explorer_figure(reading, word=7).subfigs
    assert "fear, because " + REASON in top.get_suptitle()
    picture, odds, plane = top.axes
    assert np.allclose([b.get_width() for b in odds.patches], list(reading.answer.probabilities.values()))
    assert {t.get_text() for t in plane.texts} == {
        w.text for w in reading.words if w.known
    } and "fear" in odds.get_title()
    titles = [ax.get_title().split("\n")[0] for ax in low.axes]
    assert len(titles) == STRIP and titles == [w.text for w in reading.words][4:10]
    assert [ax.title.get_fontweight() == "bold" for ax in low.axes].index(True) == titles.index(reading.words[7].text)


def test_upload_of_pictures_and_of_other_bytes():
    for content in (png(), png(kind="JPEG"), png(mode="RGBA", colour=(255, 0, 0, 0)), png(mode="L", colour=9)):
        image = open_upload(memoryview(content))
        assert image.mode == "RGB" and image.size == (50, 30)
    for bad in (b"", b"hello", png()[:60]):
        with pytest.raises(ImageError, match="JPEG or PNG") as error:
            open_upload(bad)
        assert f"{len(bad)} bytes" in str(error.value) and "0x" not in str(error.value)


def test_choosing_a_sample_sets_the_controls(page):
    for sample in page.samples.values():
        page.controls["picture"].value = sample.label
        assert page.scene() == sample.scene and page.controls["canvas"].value == sample.canvas
        assert page.reading.image.tobytes() == sample.image.tobytes() and page.controls["picture"].value == sample.label


@pytest.mark.parametrize("name", ["subject", "second", *VALUES, "canvas"])
def test_every_scene_control_repaints(page, name):
    control, before = page.controls[name], page.reading.image.tobytes()
    others = {k: c.value for k, c in page.controls.items() if k not in (name, "picture", "word")}
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
    for value in ("fear", "something else", None):
        page.controls["emotion"].value = value or CHOICE
        assert page.reading.asked == value and page.reading.answer.emotion == (value or "awe")


def test_word_control_moves_the_attention_only(page):
    reading, view, slider = page.reading, page.view.value, page.controls["word"]
    assert [label for label, _ in slider.options] == REASON.split() and slider.value == first_felt(reading)
    slider.value = len(REASON.split()) - 1
    assert page.reading is reading and page.view.value != view


def test_uploads(page):
    upload(page, png(colour="blue"))
    assert (
        page.controls["picture"].value == UPLOADED
        and page.reading.image.getpixel((3, 3)) == (0, 0, 255)
        and not page.message.value
    )
    page.controls["picture"].index = 0
    assert page.reading.image.size == (256, 256)
    page.controls["picture"].value = UPLOADED
    assert page.reading.image.size == (50, 30)
    upload(page, png(colour="green"))  # a second one, while the first is shown
    assert page.reading.image.getpixel((3, 3)) == (0, 128, 0)
    page.controls["weather"].value = next(w for w in VALUES["weather"] if w != page.controls["weather"].value)
    assert page.controls["picture"].value == OWN and page.reading.image.size == (256, 256)


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


def test_errors_that_are_not_ours_are_shown_and_raised(page, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Stub, "encode_images", broken)
    with pytest.raises(ZeroDivisionError):
        page.controls["emotion"].value = "anger"
    assert "a bug" in page.message.value
    monkeypatch.undo()
    page.controls["emotion"].value = "awe"  # the page is alive again
    assert not page.message.value and page.reading.asked == "awe"


def test_page_holds_every_control_and_the_picture(page):
    def leaves(w):
        return [x for child in w.children for x in leaves(child)] if hasattr(w, "children") else [w]

    assert set(leaves(page.show())) == {*page.controls.values(), page.message, page.view}
    assert bytes(page.view.value).startswith(b"\x89PNG")


def test_shipped_model_reads_a_painting():
    page = Explorer(n=1)
    assert page.reading.answer.emotion in EMOTIONS and page.reading.words and isinstance(page.reading, Reading)


@pytest.mark.skipif(not PAGE.exists(), reason="the notebooks are not beside the tests")
def test_notebook_keeps_a_picture_and_no_widgets():
    """A stored widget shows as an error where no kernel runs (run nbclient with store_widget_state=False, or delete
    metadata.widgets)."""
    nb = json.loads(PAGE.read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"], "widget state is stored in the metadata of the notebook"
    kinds = [kind for c in nb["cells"] for o in c.get("outputs", []) for kind in o.get("data", {})]
    assert not [k for k in kinds if "widget" in k] and "image/png" in kinds

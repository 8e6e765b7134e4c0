"""Reading a release whatever is wrong with it, the published split, and batches that keep their promises."""

import csv
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiffs import skip_unreadable

from sevlm.artemis.records import make_records
from sevlm.config import EMOTIONS, RELEASE_COLUMNS, SEVLMConfig, emotion_id
from sevlm.data.batches import Batch, PairBatches, collate, pair
from sevlm.data.paintings import (
    Painting,
    Release,
    Report,
    check_images,
    find_image,
    read_artemis,
    split_paintings,
)
from sevlm.errors import ConfigError, DataError, ImageError
from sevlm.images import open_image
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import vad_table
from sevlm.metrics.emotions import MAJORITY_RULES, confusion, emotion_accuracy, emotion_measures, majority_ids
from sevlm.models.tokenizer import decode, encode, special_ids, split_answer, train_bpe
from sevlm.studies.image_emotion import majority_accuracy
from sevlm.synthetic.truth import bayes_ceiling

HERE = Path(__file__).parent
CONFIG = SEVLMConfig.preset("tiny")


def write(path, rows, header=RELEASE_COLUMNS, **kw):
    text = io.StringIO()
    csv.writer(text, **kw).writerows([header, *rows])
    path.write_bytes(text.getvalue().encode())
    return path


def painting(name, *emotions):
    return Painting("Realism", name, emotions, tuple(f"the {e} sky of {name}" for e in emotions), emotions)


# reading


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_commas_newlines(tmp_path, bom, end):
    write(tmp_path / "a.csv", [("Cubism", "lamp", "awe", 'It glows, "softly",\nlike home.', "1")], lineterminator=end)
    (tmp_path / "a.csv").write_bytes(
        (
            bom + (tmp_path / "a.csv").read_text(encoding="utf-8")
            if end == "\n"
            else bom + (tmp_path / "a.csv").read_bytes().decode()
        ).encode()
    )
    (p,), report = read_artemis(tmp_path / "a.csv")
    assert (
        p.explanations == ('it glows "softly" like home',)
        and p.key == "Cubism/lamp"
        and report.kept == report.read == 1
    )


@pytest.mark.parametrize(
    "header,missing",
    [
        (RELEASE_COLUMNS[:4], "repetition"),
        (("style", *RELEASE_COLUMNS[1:]), "art_style"),
        ((*RELEASE_COLUMNS, "emotion"), "emotion"),
        ((), "art_style"),
    ],
)
def test_missing_columns(tmp_path, header, missing):
    with pytest.raises(
        DataError, match=f"found the columns .* expected {', '.join(RELEASE_COLUMNS)}.*Missing or repeated:.*{missing}"
    ):
        read_artemis(write(tmp_path / "a.csv", [("a",) * len(header)], header))


@pytest.mark.parametrize(
    "content,part",
    [
        (b"art_style\xff", "line 1: found bytes that are not UTF-8"),
        (b'a,b\n"open,1\n', "quote not closed"),
        (b"", r"\(none\)"),
    ],
)
def test_not_a_table(tmp_path, content, part):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=part):
        read_artemis(tmp_path / "a.csv")
    with pytest.raises(DataError, match="cannot read"):
        read_artemis(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no folder"):
        read_artemis(tmp_path / "a.csv", tmp_path / "none")


GOOD = ("Cubism", "lamp", "awe", "it glows", "1")


@pytest.mark.parametrize(
    "row,reason",
    [
        (("Cubism", "lamp", "joy", "x", "1"), "unknown emotion: line 3 ('joy')"),
        (("Cubism", "lamp", "awe", " ?! ", "1"), "empty utterance: line 3"),
        (("..", "lamp", "awe", "x", "1"), "could leave the image folder"),
        (("Cubism", "../x", "awe", "x", "1"), "could leave"),
        (("/etc", "p", "awe", "x", "1"), "could leave"),
        (("Cubism", "a\\b", "awe", "x", "1"), "could leave"),
        (("", "lamp", "awe", "x", "1"), "could leave"),
        (("Cubism", "lamp", "awe"), "wrong number of fields: line 3 (3 instead of 5)"),
    ],
)
def test_bad_rows_are_counted(tmp_path, row, reason):
    paintings, report = read_artemis(write(tmp_path / "a.csv", [GOOD, row]))
    assert (report.read, report.kept, report.dropped.total(), len(paintings)) == (2, 1, 1, 1) and reason in str(report)
    assert json.loads(json.dumps(report.to_dict()))["kept"] == 1
    with pytest.raises(DataError, match="none of the 1 rows"):
        read_artemis(write(tmp_path / "b.csv", [row]))


def test_other_columns_and_repetition(tmp_path):
    _, report = read_artemis(write(tmp_path / "a.csv", [(*GOOD[:4], "5", "w")], (*RELEASE_COLUMNS, "worker")))
    assert report.notes["columns ignored"] == "worker" and 1 in report.notes.values()


def test_file_names(tmp_path):
    name = "rené_la-mer"
    for k, stored in enumerate(
        (name, unicodedata.normalize("NFD", name), name.replace("é", "#U00e9"), name.replace("é", "#U00E9"))
    ):
        folder = tmp_path / str(k) / "Realism"
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / f"{stored}.jpg")
        for asked in (name, unicodedata.normalize("NFD", name)):
            assert find_image(tmp_path / str(k), "Realism", asked) == folder / f"{stored}.jpg"
    for odd in ("none", "x" * 500, "a\0b"):
        assert find_image(tmp_path / "0", "Realism", odd) is None
    paintings, report = read_artemis(
        write(
            tmp_path / "a.csv",
            [("Realism", name, "awe", "x", "1"), *[("Realism", f"lost-{k}", "awe", "x", "1") for k in range(5)]],
        ),
        tmp_path / "1",
    )
    assert (
        paintings[0].image.is_file()
        and report.dropped == {"no picture for the painting": 5}
        and "lost-0; Realism/lost-1; Realism/lost-2" in str(report)
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "YCbCr"])
def test_every_mode(tmp_path, mode):
    skip_unreadable(mode)
    Image.new(mode, (6, 4)).save(tmp_path / ("x.tif" if mode in ("CMYK", "F", "YCbCr") else "x.png"))
    im = open_image(next(tmp_path.iterdir()))
    assert im.mode == "RGB" and im.size == (6, 4)
    if mode in ("LA", "RGBA"):
        assert im.getpixel((0, 0)) == (255, 255, 255)


def test_bad_pictures(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    for name, content in {
        "half.jpg": data[: len(data) // 2],
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "head.jpg": data[:30],
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    paintings = [Painting("R", p.stem, ("awe",), ("x",), ("x",), p) for p in sorted(tmp_path.iterdir())] + [
        Painting("R", "absent", ("awe",), ("x",), ("x",), tmp_path / "absent.jpg")
    ]
    kept, report = check_images(paintings)
    assert (
        [p.name for p in kept] == ["whole"]
        and report.kept == 1
        and report.dropped
        == {"picture cut off": 2, "empty file": 1, "not a picture": 1, "not a file": 1, "no picture": 1}
    )
    for p in paintings:
        if p not in kept:
            with pytest.raises(ImageError, match=p.image.name):
                open_image(p.image)


def test_release(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        Release(tmp_path / "none")
    with pytest.raises(DataError, match="holds nothing like artemis_dataset_release.*metadata.csv"):
        Release(tmp_path)
    write(tmp_path / "mine.csv", [GOOD])
    with pytest.raises(DataError, match="holds nothing like wikiart"):
        Release(tmp_path)
    (tmp_path / "wikiart" / "Cubism").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "wikiart" / "Cubism" / "lamp.jpg")
    assert Release(tmp_path).lexicon is None and len(Release(tmp_path).paintings()[0]) == 1
    (tmp_path / "NRC-VAD-Lexicon.txt").write_text("a\t0\t0\t0\n", encoding="utf-8")
    assert Release(tmp_path).lexicon.name == "NRC-VAD-Lexicon.txt"
    write(tmp_path / "yours.csv", [GOOD])
    with pytest.raises(DataError, match="mine.csv, yours.csv; expected one"):
        Release(tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(EMOTIONS), min_size=1, max_size=9))
def test_majority(emotions):
    p, n = painting("x", *emotions), len(emotions)
    top = [e for e in EMOTIONS if emotions.count(e) * 2 > n]
    assert p.majority() == (top[0] if top else None) and sum(p.counts) == n
    half = [e for e in EMOTIONS if emotions.count(e) * 2 >= n]
    assert p.majority("tolerant") == (half[0] if len(half) == 1 else None)
    with pytest.raises(ConfigError, match="strict, tolerant"):
        p.majority("most")


def test_one_rule_of_a_majority():
    """Whoever asks for the majority emotion of votes, or of shares stored with four digits or more, gets the same
    answer."""
    rng = np.random.default_rng(0)
    counts = np.concatenate(
        [rng.multinomial(n, [1 / 9] * 9, 60) for n in range(1, 9)]
        + [rng.multinomial(n, [0.4, 0.4, 0.2, *[0] * 6], 60) for n in (2, 4, 6, 8, 50)]
    )
    shares = counts / counts.sum(1, keepdims=True)
    for votes in (counts, shares, *(shares.round(digits) for digits in (4, 5, 7, 12)), shares.astype(np.float32)):
        paintings = [Painting("Cubism", f"p{i}", (), (), (), votes=tuple(v)) for i, v in enumerate(votes.tolist())]
        frame = pd.DataFrame(
            [("test", "Cubism", p.name, "awe", "it glows", list(p.votes)) for p in paintings],
            columns=["split", "art_style", "painting", "emotion", "utterance_spelled", "emotion_histogram"],
        )
        for rule in MAJORITY_RULES:
            ids = majority_ids(counts, rule)
            assert (majority_ids(votes, rule) == ids).all()
            assert [p.majority(rule) for p in paintings] == [EMOTIONS[i] if i >= 0 else None for i in ids]
            eligible = int((ids >= 0).sum())
            assert emotion_accuracy(["awe"] * len(votes), votes, rule).eligible == eligible
            assert majority_accuracy(np.full(votes.shape, 1 / 9), votes, rule)[1] == eligible
        eligible = int((majority_ids(counts) >= 0).sum())
        assert (
            make_records(frame, frame)[1]
            .notes["eligible for accuracy, full votes"]
            .endswith(f"test {eligible} of {len(votes)}")
        )
        named = [p.majority() for p in paintings if p.majority()]
        assert confusion(["awe"] * len(named), named).sum() == eligible
        assert emotion_measures(["awe"] * len(votes), votes)["emotion accuracy (strict)"].n == eligible
    assert bayes_ceiling(shares, counts).labelled == eligible


@pytest.mark.parametrize(
    "shares,strict,tolerant",
    [
        ((0.5, 0.4999), None, "amusement"),  # a half, whose other half lost a digit
        ((0.5, 0.5001), "awe", "awe"),  # more than a half as it is stored
        ((0.3333, 0.3333, 0.3333), None, None),
        ((0.5, 0.5), None, None),
        ((0.5001, 0.4999), "amusement", "amusement"),
        ((2, 1, 1), None, "amusement"),  # votes
    ],
)
def test_a_half_of_rounded_shares_is_no_majority(shares, strict, tolerant):
    votes = (*shares, *[0] * (9 - len(shares)))
    p = Painting("Cubism", "lamp", (), (), (), votes=votes)
    assert (p.majority(), p.majority("tolerant")) == (strict, tolerant)
    for rule in MAJORITY_RULES:
        found = majority_ids([votes], rule)[0]
        assert p.majority(rule) == (EMOTIONS[found] if found >= 0 else None)


# splits


@pytest.mark.parametrize(
    "n,sizes", [(80_031, (68_026, 4_002, 8_003)), (79_330, (67_430, 3_967, 7_933)), (7, (5, 1, 1)), (100, (84, 6, 10))]
)
def test_split_sizes(n, sizes):
    paintings = [Painting("R", f"{i:06d}", (), (), ()) for i in range(n)]
    split = split_paintings(paintings)
    assert tuple(len(split[k]) for k in ("train", "val", "test")) == sizes
    assert len({p.key for part in split.values() for p in part}) == n


def test_split_members_of_artemis():
    "The same 240 invented paintings as ArtEmis's own preprocessing split them."
    with open(HERE / "golden" / "artemis_split.csv", newline="", encoding="utf-8") as f:
        expected = {(r["art_style"], r["painting"]): r["split"] for r in csv.DictReader(f)}
    split = split_paintings([Painting(*key, (), (), ()) for key in sorted(expected, reverse=True)])
    assert {(p.style, p.name): name for name, part in split.items() for p in part} == expected


def test_split_refuses():
    with pytest.raises(DataError, match="6 paintings are too few"):
        split_paintings([painting(str(i), "awe") for i in range(6)])
    with pytest.raises(DataError, match="each painting once"):
        split_paintings([painting("a", "awe")] * 9)


# pairs and batches


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(EMOTIONS), min_size=2, max_size=8), st.integers(0, 50), st.integers(0, 9))
def test_pair(emotions, epoch, seed):
    p = painting("x", *emotions)
    if len(set(emotions)) == 1:
        with pytest.raises(DataError, match="one emotion only"):
            pair(p, epoch, np.random.default_rng(seed))
    else:
        i, j = pair(p, epoch, np.random.default_rng(seed))
        assert i == len(emotions) - 1 - epoch % len(emotions) and emotions[i] != emotions[j]


@pytest.fixture(scope="module")
def setup():
    paintings = [painting(f"p{i}", *EMOTIONS[i % 9 : i % 9 + 3], "awe") for i in range(11)] + [
        painting("single", "fear", "fear")
    ]
    tokenizer = train_bpe([x for p in paintings for x in p.explanations], CONFIG.vocab_size)
    return paintings, tokenizer, vad_table(tokenizer, Lexicon({"awe": (0.4, 0.3, 0.1), "sky": (0.2, 0, 0)}))


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch(setup, shuffle):
    paintings, tokenizer, table = setup
    grids = (
        torch.arange(len(paintings)).float()[:, None, None].expand(-1, 4, 2)
    )  # each grid holds its painting's number
    batches = PairBatches(paintings, tokenizer, table, CONFIG, batch_size=4, grids=grids, shuffle=shuffle)
    assert (
        len(batches) == 3
        and batches.report.dropped == {"one emotion only": 1}
        and "Realism/single" in str(batches.report)
    )
    seen = []
    for b in batches:
        B, (S, T) = len(b.grid), b.ids.shape
        assert (
            S == 2 * B
            and b.image_of.tolist() == [s // 2 for s in range(S)]
            and b.vad.shape == (S, T, 3)
            and b.known.shape == (S, T)
        )
        for s in range(S):
            p = paintings[int(b.grid[b.image_of[s], 0, 0])]
            emotion, explanation = split_answer(decode(tokenizer, b.ids[s]))
            assert emotion == EMOTIONS[b.emo[s]] and (emotion, explanation) in set(zip(p.emotions, p.explanations))
            e, n = (
                encode(tokenizer, emotion, explanation, CONFIG.max_tokens),
                int((b.ids[s] != special_ids(tokenizer).pad).sum()),
            )
            assert (b.ids[s, :n].tolist(), b.segs[s, :n].tolist(), b.labels[s, :n].tolist()) == e and (
                b.labels[s, n:] == -100
            ).all()
        assert (
            (b.emo[0::2] != b.emo[1::2]).all()
            and (b.ids != special_ids(tokenizer).pad).any(0).all()
            and not (b.emo_span & b.exp_span).any()
        )
        assert torch.equal(b.vad, table.vad[b.ids]) and torch.equal(b.known, table.known[b.ids])
        seen += b.grid[:, 0, 0].int().tolist()
    assert sorted(seen) == list(range(11)) and (seen == list(range(11))) is not shuffle


def test_function_of_seed_and_epoch(setup):
    paintings, tokenizer, table = setup

    def ids(seed, epoch):
        batches = PairBatches(paintings, tokenizer, table, CONFIG, seed=seed, batch_size=4)
        list(batches)  # an epoch before does not matter
        batches.set_epoch(epoch)
        return [b.ids.tolist() for b in batches]

    assert ids(0, 3) == ids(0, 3) and ids(0, 3) != ids(0, 4) and ids(0, 3) != ids(1, 3)


def test_sources_of_pictures(setup):
    paintings, tokenizer, table = setup
    first = lambda **kw: next(iter(PairBatches(paintings, tokenizer, table, CONFIG, batch_size=3, **kw)))
    as_list, as_function = (
        [torch.full((4, 2), i, dtype=torch.float16) for i in range(12)],
        lambda i: torch.full((4, 2), i),
    )
    a, b, c = first(grids=as_list), first(grids=as_function), first(grids=torch.stack(as_list))
    assert (
        torch.equal(a.grid, b.grid) and torch.equal(a.grid, c.grid) and a.grid.dtype == torch.float32 and a.img is None
    )
    assert first(pixels=lambda i: torch.zeros(3, 8, 8)).img.shape == (3, 3, 8, 8) and first().grid is None


def test_config_is_obeyed(setup):
    paintings, tokenizer, _ = setup
    config = CONFIG.replace(boundary="fixed", pad_in_span=True, max_tokens=9)
    batches = PairBatches(paintings, tokenizer, None, config, batch_size=12)
    b = next(iter(batches))
    assert (
        b.vad is None
        and b.ids.shape[1] == 9
        and b.exp_span[:, 6:].all()
        and not b.exp_span[:, :6].any()
        and batches.report.notes["texts cut at 9 tokens"] > 0
    )


def test_batches_refuse(setup):
    paintings, tokenizer, table = setup
    with pytest.raises(DataError, match="no painting has an annotation"):
        PairBatches([], tokenizer, table, CONFIG)
    with pytest.raises(DataError, match="grids has 2 entries; expected 12"):
        PairBatches(paintings, tokenizer, table, CONFIG, grids=torch.zeros(2, 4, 2))
    with pytest.raises(DataError, match="table has"):
        PairBatches(
            paintings, train_bpe([], 304), vad_table(train_bpe(["so"] * 9, 290), Lexicon({"so": (0, 0, 0)})), CONFIG
        )


def test_one_painting_and_device(setup):
    paintings, tokenizer, table = setup
    (b,) = PairBatches(paintings[:1], tokenizer, table, CONFIG)
    assert (
        b.ids.shape[0] == 2
        and isinstance(b.to("cpu"), Batch)
        and b.to("cpu").img is None
        and b.to("meta").ids.device.type == "meta"
    )
    assert (
        collate([[1, 2], [1, 2, 3]], special_ids(tokenizer), CONFIG).ids.shape == (2, 3)
        and emotion_id("awe") == 1
        and Report("x").kept == 0
    )

"""Every form of lexicon file in small invented files, each refusal, and the measures of a lexicon.

The published look-up by tagger and WordNet is tested with made-up data and, where they are installed, with NLTK's."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sevlm.app.inspect import fact_lines, inspect_path
from sevlm.errors import ConfigError, DataError, LexiconError
from sevlm.lexicon import files as lexfile
from sevlm.lexicon.coverage import (
    NltkLemmas,
    NltkTable,
    agreement,
    compare_lexicons,
    coverage_by_emotion,
    lookup_shares,
    nltk_tools,
    nltk_vad,
)
from sevlm.lexicon.files import (
    FIRST_BYTES,
    PUBLISHED_LEXICONS,
    PublishedLexicon,
    file_facts,
    find_lexicon,
    find_scale,
    is_lexicon,
    read_lexicon_file,
    recognise,
    scale_range,
    terms,
    to_bipolar,
)
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import vad_table
from sevlm.models.tokenizer import add_special_tokens, read_bpe
from sevlm.synthetic.words import mini_lexicon

HERE = Path(__file__).parent
V1 = "calm\t0.800\t0.100\t0.575\nstorm\t0.300\t0.875\t0.725\nstill life\t.5\t.2\t.5\n"
BIPOLAR = "calm\t0.60\t-0.80\t0.15\nstorm\t-0.40\t0.75\t0.45\n"
V2 = (
    "term\tvalence\tarousal\tdominance\n"
    "calm\t0.600\t-0.800\t0.150\nstorm\t-0.4\t0.75\t0.45\ncalm down\t0.3\t-0.5\t0.2\n"
)
WARRINER = (
    ",Word,V.Mean.Sum,V.SD.Sum,V.Rat.Sum,A.Mean.Sum,A.SD.Sum,A.Rat.Sum,D.Mean.Sum,D.SD.Sum,D.Rat.Sum,V.Mean.M\n"
    "1,calm,7.4,1.4,20,1.8,1.2,22,5.6,2.0,19,6.7\n2,storm,3.4,2.1,19,8,1.9,21,6.8,1.8,20,3.9\n3,null,4.5,1,20,3,1,20,4.5,1,20,4\n"
)
CALM = [0.6, -0.8, 0.15]


def put(folder, text, name="lexicon.tsv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


# ---- forms


@pytest.mark.parametrize(
    "name, text, scale, known",
    [
        ("NRC-VAD-Lexicon.txt", V1, "unit", "NRC VAD v1"),
        ("NRC-VAD-Lexicon.txt", "Word\tValence\tArousal\tDominance\n" + V1, "unit", "NRC VAD v1"),
        ("NRC-VAD-Lexicon.txt", BIPOLAR, "bipolar", "NRC VAD v1, bipolar"),
        ("NRC-VAD-Lexicon-v2.1.txt", V2, "bipolar", "NRC VAD v2.1"),
        ("unigrams-NRC-VAD-Lexicon-v2.1.txt", V2, "bipolar", "NRC VAD v2.1"),
        ("Ratings_Warriner_et_al.csv", WARRINER, "nine", "Warriner et al. 2013"),
        ("BRM-emot-submit.csv", WARRINER.replace("\n", "\r\n"), "nine", "Warriner et al. 2013"),
        ("renamed.csv", "\ufeff" + WARRINER, "nine", "Warriner et al. 2013"),
        ("from a spreadsheet.tsv", WARRINER.replace(",", "\t"), "nine", "Warriner et al. 2013"),
        ("quoted.csv", WARRINER.replace("calm", '"calm"'), "nine", "Warriner et al. 2013"),
        ("mine.tsv", V1, "unit", None),
        ("mine.tsv", BIPOLAR, "bipolar", None),
        ("mine.tsv", V2, "bipolar", None),
    ],
)
def test_each_form(name, text, scale, known, tmp_path):
    lexicon = Lexicon.read(put(tmp_path, text, name))
    assert np.allclose(lexicon["calm"], CALM, atol=1e-6) and lexicon.scale == scale and lexicon.source == name
    assert (lexicon.published.name if lexicon.published else None) == known and lexicon.multiword == text.count(
        "still life"
    ) + text.count("calm down")
    assert (known or "none of those") in "\n".join(fact_lines(lexicon.facts()))
    assert (known or "Lexicon(") in repr(lexicon) and ("Cite" in repr(lexicon)) is bool(known)


@pytest.mark.parametrize(
    "header, row",
    [
        ("nr\tdominance\tword\tvalence\tarousal", "7\t.15\tcalm\t.6\t-.8"),
        ("D\tA\tV\tterm", ".15\t-.8\t.6\tcalm"),
        ("Word\tV\tA\tD\tremark", "calm\t.6\t-.8\t.15\tfine"),
        ("lemma\tvalence\tarousal\tdominance", "calm\t.6\t-.8\t.15"),
    ],
)
def test_columns_are_found_by_name(header, row, tmp_path):
    lexicon = Lexicon.read(put(tmp_path, f"{header}\n{row}\n"))
    assert list(lexicon) == ["calm"] and np.allclose(lexicon["calm"], CALM) and not lexicon.notes


def test_names_not_understood_are_told_and_words_that_look_like_names_are_entries(tmp_path):
    lexicon = Lexicon.read(put(tmp_path, "Wort\tValenz\tErregung\tDominanz\n" + BIPOLAR))
    assert len(lexicon) == 2 and "Valenz" in lexicon.notes[0] and "not understood" in repr(lexicon)
    lexicon = Lexicon.read(put(tmp_path, "valence\t.6\t-.8\t.15\nnan\t.1\t.1\t.1\nNA\t.1\t.1\t.2\nnull\t0\t0\t0\n"))
    assert list(lexicon) == ["valence", "nan", "na", "null"] and not lexicon.notes


@pytest.mark.parametrize(
    "text, parts",
    [
        ("calm\t0.8\nstorm\t0.3\n", ["line 1", "found 2", "OneFilePerDimension", "NRC-VAD-Lexicon.txt"]),
        ("term\tvalence\ncalm\t.8\n", ["line 1", "found valence", "OneFilePerDimension"]),
        (
            "word\tvalence\tarousal\ncalm\t.8\t.1\n",
            ["found valence and arousal", "expected valence, arousal, dominance"],
        ),
        ("word\tV\tA\tX\n" + BIPOLAR, ["found valence and arousal"]),
        ("valence\tarousal\tdominance\tid\tname\n", ["0 columns are named word or term"]),
        ("word\tV\tA\tD\tvalence\ncalm\t.1\t.1\t.1\t.1\n", ["2 columns are named valence"]),
        ("nr\tword\tV\tA\tD\n1\tcalm\t.6\t-.8\n", ["line 2", "found 4", "expected 5 as in the line of column names"]),
        (":)\t1.3\t0.5\t[1, 1, 2]\n", ["line 1", "VADER", "valence only"]),
        ('id,V,A,D,text\na,3.0,2.8,3.1,"Calm, at last."\n', ["EmoBank", "rates words"]),
        ("word\tvalence (0..1)\tarousal (-1..1)\tdominance (0..1)\n" + V1, ["different scales"]),
        (WARRINER.replace(",calm", ',"calm'), ["comma-separated", "quote"]),
        (WARRINER.replace("7.4", "NA"), ["line 2", "'NA' is not a number"]),
        (WARRINER.replace("A.Mean.Sum", "A.Mean"), ["found valence and dominance"]),
    ],
)
def test_refusals(text, parts, tmp_path):
    with pytest.raises(LexiconError) as e:
        Lexicon.read(put(tmp_path, text))
    for part in [*parts, "lexicon.tsv"]:
        assert part in str(e.value)


def test_pairs_that_differ_in_capitals_and_repeats(tmp_path):
    lexicon = Lexicon.read(put(tmp_path, WARRINER + "4,Null,6,1,1,6,1,1,6,1,1,6\n", "w.csv"))
    assert lexicon.skipped == {"differing in capitals": 1} and np.allclose(
        lexicon["null"], (np.array([4.5, 3, 4.5]) - 5) / 4
    )
    with pytest.raises(LexiconError, match="line 5: 'null' was listed on line 4"):
        Lexicon.read(put(tmp_path, WARRINER + "4,null,6,1,1,6,1,1,6,1,1,6\n", "w.csv"))


# ---- scales


def test_ends_of_scales():
    assert (
        scale_range("nine") == (1, 9)
        and scale_range("0..100") == (0, 100)
        and scale_range(" -3 .. 3 ") == (-3, 3)
        and scale_range("0.5..2.5") == (0.5, 2.5)
    )
    for bad in ("percent", "9..1", "1..1", "1-9", "..", ""):
        with pytest.raises(LexiconError, match="unknown scale.*unit, bipolar, nine.*0..100"):
            scale_range(bad)
    assert to_bipolar([-3, 0, 3], "-3..3").tolist() == [-1, 0, 1]


@pytest.mark.parametrize("scale", ["0..100", "1..7", "1..5", "-3..3", "0..1"])
@pytest.mark.parametrize("way", ["named", "stated"])
def test_a_range_that_is_named_or_stated(scale, way, tmp_path):
    lo, hi = scale_range(scale)
    values = ["\t".join(f"{lo + (hi - lo) * (x + 1) / 2:.6g}" for x in row) for row in (CALM, (-0.4, 0.7, 0.4))]
    columns = (
        "word\t" + "\t".join(f"{d} ({scale})" for d in ("valence", "arousal", "dominance")) + "\n"
        if way == "stated"
        else ""
    )
    path = put(tmp_path, f"{columns}calm\t{values[0]}\nstorm\t{values[1]}\n")
    lexicon = Lexicon.read(path, scale if way == "named" else None)
    assert np.allclose(lexicon["calm"], CALM, atol=1e-5) and lexicon.scale == ("unit" if scale == "0..1" else scale)
    assert (
        lexicon.scale_reason == {"named": "named by the caller", "stated": "stated in the header"}[way]
        and not lexicon.notes
    )


@pytest.mark.parametrize(
    "values, parts",
    [
        ("80\t10\t57\nstorm\t30\t87\t72", ["off the scale", "fits 0 of 2", "run from 10 to 87", "scale='0..100'"]),
        ("6.2\t1.6\t4.4\nstorm\t2.6\t7\t4.9", ["line 2 ('storm')", "the highest of all values, 7,", "scale='1..7'"]),
        ("4.8\t1.2\t3\nstorm\t2\t4.6\t4", ["the highest of all values, 4.8,", "scale='nine'"]),
        ("-2.5\t1\t2\nstorm\t3\t-3\t0", ["off the scale", "run from -3 to 3"]),
        ("9\t1\t5\nstorm\t2\t10\t4", ["off the scale 1..9", "fits 1 of 2", "run from 1 to 10"]),
    ],
)
def test_other_scales_are_refused(values, parts, tmp_path):
    with pytest.raises(LexiconError) as e:
        Lexicon.read(put(tmp_path, f"calm\t{values}\n"))
    for part in parts:
        assert part in str(e.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("head", ["", "word\tvalence\tarousal\tdominance\n"])
def test_a_large_file_in_another_encoding_is_found(encoding, head, tmp_path):
    "Its first bytes are cut between two letters."
    text = "\ufeff" + head + "".join(f"word{n}\t0.1\t0.2\t0.3\n" for n in range(FIRST_BYTES // 20))
    file = tmp_path / "words.txt"
    file.write_bytes(text.encode(encoding))
    assert file.stat().st_size > FIRST_BYTES and is_lexicon(file) == bool(head)
    assert find_lexicon(tmp_path) == file


def test_the_limits_of_what_is_seen():
    see = lambda *v: find_scale(np.array([v, v], dtype=float), str)
    assert (
        see(1, 7.01, 4)[0] == "nine"
        and see(0, 0, 1)[0] == "unit"
        and see(-0.001, 0, 1)[0] == "bipolar"
        and see(1, 9, 5)[2] is None
    )
    assert "scale='bipolar'" in see(0, 0.5, 1)[2] and see(-0.5, 0.5, 1)[2] is None
    for bad in ((1, 7, 4), (0, 0.5, 1.01), (-1.01, 0, 0), (0.99, 9, 5), (1, 9.01, 5)):
        with pytest.raises(LexiconError):
            see(*bad)
    assert find_scale(np.array([[0.2, 0.4, 0.5]]), str, "bipolar") == ("bipolar", "named by the caller", None)


def test_doubt_about_a_list_of_pleasant_words(tmp_path):
    path = put(tmp_path, "calm\t.6\t.2\t.15\njoy\t.9\t.5\t.4\n")
    doubtful, sure = Lexicon.read(path), Lexicon.read(path, "bipolar")
    assert (
        doubtful.scale == "unit"
        and "scale='bipolar'" in doubtful.notes[0]
        and "note on scale" in repr(doubtful)
        and "scale='bipolar'" in str(inspect_path(path)["notes"])
    )
    assert np.allclose(sure["calm"], [0.6, 0.2, 0.15]) and not sure.notes and "note" not in repr(sure)
    assert np.allclose(doubtful["calm"], [0.2, -0.6, -0.7])


def test_asking_against_the_header_is_told(tmp_path):
    path = put(tmp_path, "word\tvalence (-1..1)\tarousal (-1..1)\tdominance (-1..1)\ncalm\t.6\t.1\t.15\n")
    assert not Lexicon.read(path, "-1..1").notes and Lexicon.read(path, "-1..1").scale == "bipolar"
    assert "the header states bipolar, unit was asked for" in Lexicon.read(path, "unit").notes[0]
    assert any("is published on nine" in n for n in Lexicon.read(put(tmp_path, WARRINER, "w.csv"), "1..10").notes)


# ---- the known ones


def test_rows_are_compared(tmp_path, monkeypatch):
    path = put(tmp_path, V2, "NRC-VAD-Lexicon-v2.1.txt")
    assert "NRC VAD v2.1, which has 54,801 rows; found 3: cut, changed" in Lexicon.read(path).notes[0]
    v2 = next(k for k in PUBLISHED_LEXICONS if k.name == "NRC VAD v2.1")
    changed = lambda **kw: monkeypatch.setattr(lexfile, "PUBLISHED_LEXICONS", (PublishedLexicon(**{**vars(v2), **kw}),))
    changed(rows=3)
    assert not Lexicon.read(path).notes
    changed(parts=((3, "the single words"),))
    assert "found 3, as many as the single words of it" in Lexicon.read(path).notes[0]
    assert {k.name: k.rows for k in PUBLISHED_LEXICONS} == {
        "NRC VAD v1": 19_971,
        "NRC VAD v1, bipolar": 19_971,
        "NRC VAD v2.1": 54_801,
        "Warriner et al. 2013": 13_915,
    } and sum(n for n, _ in v2.parts) == v2.rows


def test_a_checksum_is_known_under_any_name(tmp_path, monkeypatch):
    path = put(tmp_path, V1, "mine.tsv")
    assert Lexicon.read(path).published is None and Lexicon.read(path).notes
    monkeypatch.setattr(
        lexfile,
        "PUBLISHED_LEXICONS",
        (
            PublishedLexicon(
                "N", "bipolar", 3, (), "x", (), hashlib.sha256(V1.encode()).hexdigest(), "free", "me", "here"
            ),
        ),
    )
    lexicon = Lexicon.read(path)
    assert (
        lexicon.published.name == "N"
        and lexicon.scale == "bipolar"
        and lexicon.scale_reason == "N is published on it"
        and lexicon.file.recognised_by == "its checksum"
        and not lexicon.notes
    )
    assert lexicon.terms == "free. Cite me. From here." and np.allclose(lexicon["calm"], [0.8, 0.1, 0.575])
    put(tmp_path, V1 + "sea\t.5\t.5\t.5\n", "mine.tsv")
    assert Lexicon.read(path).published is None


def test_recognised_by_name_only_where_the_values_can_be_it():
    def at(name, columns, v):
        found, _ = recognise(name, b"", columns, np.array([[v, 0.2, 0.3]]))
        return found and found.name

    assert (
        at("NRC-VAD-Lexicon.txt", [], 0.5) == "NRC VAD v1"
        and at("NRC-VAD-Lexicon.txt", [], 5) is None
        and at("my-NRC-VAD-Lexicon.txt", [], 0.5) is None
    )
    assert (
        at("NRC-VAD-Lexicon-v2.1.txt", ["term", "valence", "arousal", "dominance"], -0.5) == "NRC VAD v2.1"
        and at("NRC-VAD-Lexicon-v2.1.txt", ["x", "y", "z", "w"], -0.5) is None
    )


def test_terms(tmp_path):
    assert (
        "not to be passed on" in terms(read_lexicon_file(put(tmp_path, V1, "NRC-VAD-Lexicon.txt")))
        and "look where it came from" in Lexicon({"calm": CALM}).terms
    )
    assert (
        all(k.terms and k.cite and k.source for k in PUBLISHED_LEXICONS)
        and Lexicon({"calm": CALM}).published is None
        and Lexicon({"calm": CALM}).facts()["entries"] == 1
    )
    assert file_facts(read_lexicon_file(put(tmp_path, V1)))["scale of the file"] == "unit (0..1)"


def test_inspect_tells_of_a_lexicon(tmp_path):
    for name, text in (("NRC-VAD-Lexicon.txt", V1), ("w.csv", WARRINER)):
        found = inspect_path(put(tmp_path, text, name))
        assert (
            found["kind"] == "VAD lexicon"
            and found["entries"] == 3
            and "Cite" in found["terms"]
            and found["scale found by"]
            and "column names" in found["form"]
        )
        assert "rows: recognised by" in str(found["notes"])
    with pytest.raises(DataError, match="found the columns"):
        inspect_path(put(tmp_path, "a,b,c\n1,2,3\n", "other.csv"))


# ---- measures


@pytest.fixture(scope="module")
def gpt2():
    return add_special_tokens(read_bpe(HERE / "gpt2_bpe"))


@pytest.fixture(scope="module")
def small():
    return Lexicon(
        {
            "calm": CALM,
            "old": (-0.1, -0.3, -0.1),
            "serenity": (0.8, -0.75, 0.4),
            "chair": (0, 0, 0),
            "storm": (-0.4, 0.75, 0.45),
        }
    )


def test_coverage_by_emotion(small):
    table = coverage_by_emotion(small, ["fear", "awe", "fear", "joy"], ["the storms", "calm, calm", "storm", ""])
    assert (
        list(table.index) == ["awe", "fear", "joy", "all"]
        and table["words"].tolist() == [2, 3, 0, 5]
        and table["known"].tolist() == [2, 2, 0, 4]
    )
    assert (
        table.loc["fear", "different words"] == 3
        and table.loc["fear", "of them known"] == 2
        and table.loc["joy", "share"] == 0
        and table.loc["awe", "share"] == 1
    )
    with pytest.raises(DataError, match="1 emotions for 2 texts"):
        coverage_by_emotion(small, ["fear"], ["a", "b"])


def test_comparison(small):
    itself = compare_lexicons(small, small)
    assert (
        np.allclose(itself.table["correlation"], 1)
        and not itself.table["mean absolute difference"].any()
        and (itself.shared, itself.only_first) == (5, 0)
    )
    other = compare_lexicons(small, Lexicon({"calm": (-0.6, -0.8, 0.15), "storm": (0.4, 0.75, 0.45), "sea": (0, 0, 0)}))
    assert (other.shared, other.only_first, other.only_second) == (2, 3, 1) and np.isclose(
        other.table.loc["valence", "correlation"], -1
    )
    assert (
        other.table.loc["valence", "words of opposite sign"] == 2
        and np.isclose(other.table.loc["valence", "mean absolute difference"], 1)
        and other.farthest[0] == ("calm", pytest.approx(1.2))
    )
    assert "calm 1.20" in str(other)
    flat = compare_lexicons(Lexicon({"a": (0, 0, 0), "b": (0, 1, 0)}), Lexicon({"a": (0.1, 0, 0), "b": (0.2, 1, 0)}))
    assert np.isnan(flat.table.loc["valence", "correlation"]) and flat.table.loc["arousal", "correlation"] == 1
    with pytest.raises(LexiconError, match="1 words in common"):
        compare_lexicons(small, Lexicon({"calm": CALM}))


def test_shares_of_look_ups(gpt2, small):
    table = lookup_shares(gpt2, small, ["Serenity! The chair's scold", "calm storms"])  # Ġseren|ity? Ġsc|old
    assert (
        table["words in the lexicon"].tolist() == [4] * 3
        and table["found"].tolist() == [2, 3, 4]
        and table["wrong"].tolist() == [1, 0, 0]
    )
    assert table["pieces"].nunique() == 1 and table.loc["word", "share found"] == 1
    with pytest.raises(DataError, match="no words"):
        lookup_shares(gpt2, small, ["", "..."])


def recording():
    d = json.loads((HERE / "golden" / "dataset.json").read_text(encoding="utf-8"))
    return [(t, v) for r in d["train"] for t, v in zip(r["tokens"], r["vad_nltk"])] + [
        (r["tokens"], r["vad_nltk"]) for r in d["eval"]
    ]


def test_agreement_with_the_recording(gpt2):
    texts, theirs = zip(*recording())
    lexicon = Lexicon.read(HERE / "golden" / "vad_lexicon.tsv")
    ours = {
        how: [
            vad_table(gpt2, lexicon, how)(torch.tensor(gpt2.convert_tokens_to_ids(list(t))))[0].numpy() for t in texts
        ]
        for how in ("piece", "word")
    }
    a = agreement(texts, ours["piece"], theirs)
    assert (a.tokens, a.equal, a.known, a.differing) == (304, 304, (40, 40), [])
    b = agreement(texts, ours["word"], theirs)
    assert (
        b.equal == 302
        and [(p, n) for p, *_, n in b.differing] == [("ment", 2)]
        and "'ment': (0.75, -0.3, 0.3) against (0.0, 0.0, 0.0), 2 times" in str(b)
    )


def test_agreement_sees_what_differs():
    same = [[[0, 0, 0], [0.1, 0.2, 0.3]]]
    assert agreement([["a", "b"]], same, same).equal == 2 and agreement([["a", "b"]], same, same).known == (1, 1)
    for off, equal in ((1e-7, 2), (1e-5, 1)):
        assert agreement([["a", "b"]], same, [[[0, 0, 0], [0.1, 0.2, 0.3 + off]]]).equal == equal
    for texts in ([["a"]], [["a", "b"], ["c"]]):
        with pytest.raises(DataError, match="expected V, A, D for each token"):
            agreement(texts, same, same)


# ---- the published route


TAGS = {"leaves": "VBZ", "calm": "JJ", "quickly": "RB", "is": "VBZ", "<pad>": "CD"}


def test_lemmas_are_asked_with_wordnets_part_of_speech():
    asked = []
    lemmas = NltkLemmas(
        lambda pieces: [(p, TAGS.get(p, "NNS")) for p in pieces], lambda p, pos: asked.append((p, pos)) or p.rstrip("s")
    )
    assert lemmas(["calm", "leaves", "quickly", "storms", "<pad>"]) == ["calm", "leave", "quickly", "storm", "<pad>"]
    assert asked == [
        ("calm", "a"),
        ("leaves", "v"),
        ("quickly", "r"),
        ("storms", "n"),
        ("<pad>", "n"),
    ]  # what is none of the four is a noun
    assert lemmas([]) == []


def test_pieces_without_their_mark_and_exact_spelling(small):
    seen = []
    lemmas = NltkLemmas(
        lambda pieces: seen.extend(pieces) or [(p, "NN") for p in pieces], lambda p, pos: {"storms": "storm"}.get(p, p)
    )
    vad, known = nltk_vad(["<|endoftext|>", "Ġstorms", "ĠCalm", "Ġsc", "old", "Ġchair"], small, lemmas)
    assert (
        seen == ["<|endoftext|>", "storms", "Calm", "sc", "old", "chair"]
        and vad.dtype == np.float32
        and vad.shape == (6, 3)
    )
    assert known.tolist() == [False, True, False, False, True, False] and np.allclose(
        vad[1], small["storm"]
    )  # capitals are unknown; so is what is neutral
    assert nltk_vad([], small, lemmas)[0].shape == (0, 3)


def test_route_stands_in_for_a_table(gpt2, small):
    lemmas = NltkLemmas(lambda pieces: [(p, "NN") for p in pieces], lambda p, pos: {"storms": "storm"}.get(p, p))
    route, ids = (
        NltkTable(gpt2, small, lemmas),
        torch.tensor([gpt2(" calm storms").input_ids, gpt2(" storms old").input_ids]),
    )
    vad, known = route.to("cpu")(ids)
    expected = vad_table(gpt2, small, "piece")(ids)
    assert (
        torch.equal(vad, expected[0])
        and torch.equal(known, expected[1])
        and len(route) == len(gpt2)
        and vad.dtype == torch.float32
    )
    assert torch.equal(route(ids[0])[0], vad[0]) and torch.equal(route(ids[None])[1], known[None])
    with pytest.raises(ConfigError, match="cannot be saved"):
        route.save("x")


def test_without_data_it_says_what_to_fetch(monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk, "pos_tag", lambda pieces: nltk.data.find("taggers/averaged_perceptron_tagger_eng"))
    monkeypatch.setattr(
        "nltk.stem.WordNetLemmatizer.lemmatize", lambda self, word, pos: nltk.data.find("corpora/wordnet")
    )
    with pytest.raises(DataError) as e:
        NltkLemmas()(["a"])
    for part in (
        "averaged_perceptron_tagger_eng and wordnet",
        "python -m nltk.downloader averaged_perceptron_tagger_eng wordnet",
        "NLTK_DATA",
        "'piece'",
    ):
        assert part in str(e.value)
    monkeypatch.setattr("nltk.stem.WordNetLemmatizer.lemmatize", lambda self, word, pos: word)
    with pytest.raises(DataError, match="no data for averaged_perceptron_tagger_eng. Expected"):
        nltk_tools()
    assert NltkLemmas(lambda p: [(x, "NN") for x in p], lambda p, pos: p)(["a"]) == ["a"]  # injected ones need no data


def test_nltks_own_tagger_is_used_as_it_is(tmp_path, monkeypatch):
    "The code of NLTK on an invented model of the tagger, in a folder nltk_data as a user has it."
    import nltk

    folder = tmp_path / "taggers" / "averaged_perceptron_tagger_eng"
    folder.mkdir(parents=True)
    for name, what in (
        ("weights", {"bias": {"NN": 0.1}}),
        ("tagdict", {"leaves": "VBZ", "calm": "JJ"}),
        ("classes", ["JJ", "NN", "VBZ"]),
    ):
        (folder / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(what), encoding="utf-8")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr("nltk.stem.WordNetLemmatizer.lemmatize", lambda self, word, pos: f"{word}/{pos}")
    assert NltkLemmas()(["calm", "leaves", "blow"]) == ["calm/a", "leaves/v", "blow/n"]


def test_the_recording_with_nltks_data(gpt2):
    try:
        nltk_tools()
    except DataError as e:
        pytest.skip(str(e))
    texts, theirs = zip(*recording())
    lexicon = Lexicon.read(HERE / "golden" / "vad_lexicon.tsv")
    a = agreement(texts, [nltk_vad(t, lexicon, NltkLemmas())[0] for t in texts], theirs)
    assert a.equal == a.tokens == 304, str(a)


def test_the_projects_own_lexicon_may_be_passed_on(tmp_path):
    "Whether it was read from a file or made in code, and in what is reported as in its terms."
    made = Lexicon(mini_lexicon())
    made.write(tmp_path / "mini.txt")
    for lexicon in (made, Lexicon.read(tmp_path / "mini.txt")):
        facts = lexicon.facts()
        assert facts["known as"] == "the invented lexicon of mini-ArtEmis" and "may be passed on" in facts["terms"]


def test_the_doubt_about_a_scale_names_a_way_without_code(tmp_path):
    rows = "calm\t0.5\t0.2\t0.3\nglad\t0.9\t0.6\t0.5\n"
    (note,) = Lexicon.read(put(tmp_path, "word\tvalence\tarousal\tdominance\n" + rows, "mine.tsv")).notes
    assert "'valence (-1..1)' in the line of column names" in note
    header = "word\tvalence (-1..1)\tarousal (-1..1)\tdominance (-1..1)\n"
    told = Lexicon.read(put(tmp_path, header + rows, "mine.tsv"))
    assert told.scale == "bipolar" and not told.notes

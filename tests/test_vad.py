"""The lexicon against damaged files, odd words, and the values the reference gives to tokens (tests/golden)."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.errors import CheckpointError, LexiconError
from sevlm.lexicon.files import to_bipolar
from sevlm.lexicon.lexicon import Lexicon, candidates, coverage
from sevlm.lexicon.token_table import VADTable, vad_table, word_forms
from sevlm.models.tokenizer import add_special_tokens, read_bpe

HERE = Path(__file__).parent
OK = "calm\t0.6\t-0.8\t0.15\n"
BAD = {  # name: content, parts of the message
    "three fields": (OK + "storm\t1\t0\n", ["line 2", "found 3 tab-separated fields", "expected 4"]),
    "five fields": ("a\t0\t0\t0\t0\n", ["line 1", "found 5"]),
    "commas": ("calm,0.6,-0.8,0.15\n", ["line 1", "found 1 tab-separated", "Save the lexicon as tab-separated"]),
    "not a number": (OK + "storm\t-0.4\thigh\t0.4\n", ["line 2", "'high' is not a number"]),
    "nan": (OK + "storm\tnan\t0\t0\n", ["line 2", "'nan'"]),
    "half a header": ("word\tV\t0.5\tD\n" + OK, ["line 1", "'V' is not a number"]),
    "second header": (OK + "word\tV\tA\tD\n", ["line 2", "'V' is not a number"]),
    "off the scale": (
        OK + "sky\t0\t0\t0\nstorm\t-0.4\t7\t0.4\n",
        ["line 3 ('storm')", "off the scale -1..1", "scale="],
    ),
    "ten": ("a\t5\t5\t5\nb\t9\t1\t9\nc\t10\t5\t5\n", ["line 3 ('c')", "off the scale 1..9"]),
    "duplicate": (
        OK + "sky\t0\t0\t0\ncalm\t0.5\t-0.8\t0.15\n",
        ["line 3", "'calm' was listed on line 1", "delete one"],
    ),
    "empty word": (OK + "\t0\t0\t0\n", ["line 2", "the word is empty"]),
    "empty": ("", ["holds no entries"]),
    "blank lines": ("\n \n", ["holds no entries"]),
    "header only": ("w\tv\ta\td\n", ["holds no entries"]),
    "latin-1": ((OK + "café\t0\t0\t0\n").encode("latin-1"), ["line 2", "not UTF-8"]),
    "utf-16, without its mark": (OK.encode("utf-16-le"), ["UTF-16LE", "iconv -f UTF-16LE"]),
    "utf-16, cut": (OK.encode("utf-16")[:-1], ["UTF-16", "cut short"]),
    "zeros": (b"\0" * 64, ["binary file"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    content, parts = BAD[name]
    path = tmp_path / "lexicon.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LexiconError) as e:
        Lexicon.read(path)
    for part in [*parts, str(path)]:
        assert part in str(e.value)


def test_absent_folder_and_scale_name(tmp_path):
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(LexiconError, match="cannot read the lexicon"):
            Lexicon.read(path)
    (tmp_path / "ok.tsv").write_text(OK, encoding="utf-8")
    with pytest.raises(LexiconError, match="unknown scale.*unit, bipolar, nine"):
        Lexicon.read(tmp_path / "ok.tsv", scale="percent")
    with pytest.raises(LexiconError, match="off the scale 0..1"):
        Lexicon.read(tmp_path / "ok.tsv", scale="unit")


@pytest.mark.parametrize(
    "scale,values", [("unit", ".8\t.1\t.575"), ("bipolar", ".6\t-.8\t.15"), ("nine", "7.4\t1.8\t5.6")]
)
@pytest.mark.parametrize("header", ["", "word\tV\tA\tD\n", "\ufeffterm\tvalence\tarousal\tdominance\r\n"])
def test_three_scales_one_word(scale, values, header, tmp_path):
    (tmp_path / "l.txt").write_bytes(f"{header}calm\t{values}\r\nstill life\t{values}\n".encode())
    lexicon = Lexicon.read(tmp_path / "l.txt")
    assert lexicon.scale == scale and lexicon.source == "l.txt" and (len(lexicon), lexicon.multiword) == (2, 1)
    assert np.allclose(lexicon["calm"], [0.6, -0.8, 0.15], atol=1e-6) and lexicon["calm"].dtype == np.float32
    assert scale in repr(lexicon)


def test_repeats_and_capitals_are_counted(tmp_path):
    (tmp_path / "l.tsv").write_text(
        "Rose\t.4\t-.1\t.1\nrose\t.7\t-.2\t-.1\nrose\t.7\t-.2\t-.1\nROSE\t.1\t.1\t.1\n", encoding="utf-8"
    )
    lexicon = Lexicon.read(tmp_path / "l.tsv")
    assert (
        len(lexicon) == 1
        and np.allclose(lexicon["rose"], [0.7, -0.2, -0.1])
        and lexicon.skipped == {"repeated": 1, "differing in capitals": 2}
    )
    assert "2 differing in capitals" in repr(lexicon)


values = st.floats(-1, 1, width=32).map(lambda v: v + 0.0)  # no negative zero
words = st.text("abcdefghijklmnopqrstuvwxyzéß '", min_size=1, max_size=12).map(str.strip).filter(bool)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(words, st.tuples(values, values, values), min_size=1, max_size=8))
def test_written_is_read_to_the_bit(entries):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        lexicon = Lexicon(entries)
        lexicon.write(Path(folder) / "l.tsv")
        again = Lexicon.read(Path(folder) / "l.tsv")
    assert list(again) == list(lexicon) and np.array_equal(again.vad, lexicon.vad)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_lookup_never_fails(word):
    vad, known = Lexicon({"calm": (0.6, -0.8, 0.15)}).lookup(word)
    assert vad.shape == (3,) and isinstance(known, bool) and (known or not vad.any())


@pytest.mark.parametrize(
    "word,base",
    [
        ("flowers", "flower"),
        ("Felt", "feel"),
        ("children", "child"),
        ("less", "less"),
        ("was", None),
        ("colours", "color"),
        ("colors", "color"),
        ("gray", "grey"),
        ("organised", "organize"),
        ("theater", "theatre"),
        ("four", None),
        ("", None),
        ("blorb", None),
    ],
)
def test_lookup(word, base):
    lexicon = Lexicon(
        dict.fromkeys(
            ("flower", "feel", "child", "less", "color", "grey", "organize", "theatre", "for"), (0.1, 0.2, 0.3)
        )
    )
    assert lexicon.base(word) == base and lexicon.lookup(word)[1] is (base is not None)


def test_word_as_it_stands_first():
    lexicon = Lexicon({"felt": (0.1, 0, 0), "feel": (0.2, 0, 0)})
    assert lexicon.base("felt") == "felt" and next(iter(candidates("felt"))) == "felt"


def test_capitals_of_entries_do_not_count():
    vad, known = Lexicon({"Happy": (0.1, 0.2, 0.3)}).lookup("Happy")
    assert known and np.allclose(vad, (0.1, 0.2, 0.3))


def test_constructor_refuses():
    zeros, ragged = (0, 0, 0), {"a": (0.1, 0.2, 0.3), "b": (0.1, 0.2)}
    for entries in ({}, {"a": (0, 0)}, {"a": (0, 0, float("nan"))}, ragged, {"a": ("low", "high", "low")}, {"a": None}):
        with pytest.raises(LexiconError):
            Lexicon(entries)
    with pytest.raises(LexiconError, match="'happy' stands in it with different capitals"):
        Lexicon({"Happy": zeros, "happy": zeros})
    with pytest.raises(LexiconError, match="'b'"):
        Lexicon({"a": (0, 0, 0), "b": (0, 2, 0)})
    assert np.allclose(to_bipolar([[1, 5, 9]], "nine"), [[-1, 0, 1]])


@pytest.fixture(scope="module")
def gpt2():
    return add_special_tokens(read_bpe(HERE / "gpt2_bpe"))


@pytest.fixture(scope="module")
def lexicon():
    return Lexicon.read(HERE / "golden" / "vad_lexicon.tsv")


def test_the_references_values(gpt2, lexicon):
    "NLTK tagging and WordNet, as the reference does it, and ours give equal values to every token of its data set."
    table, n = vad_table(gpt2, lexicon, "piece"), 0
    for record in json.loads((HERE / "golden" / "dataset.json").read_text(encoding="utf-8"))["train"]:
        for tokens, expected in zip(record["tokens"], record["vad_nltk"]):
            vad, known = table(torch.tensor(gpt2.convert_tokens_to_ids(tokens)))
            assert torch.allclose(vad, torch.tensor(expected), atol=1e-6)
            n += int(known.sum())
    assert n == 39


def test_table(gpt2, lexicon, tmp_path):
    asked = []

    class Watched(Lexicon):
        def lookup(self, word):
            return asked.append(word) or super().lookup(word)

    table = vad_table(gpt2, Watched({w: lexicon[w] for w in lexicon}))
    assert len(table) == len(gpt2) == 50261
    assert len(gpt2) / 2 < len(asked) < 1.5 * len(gpt2)  # about one question a piece, so that it is made quickly
    assert (
        not table.known[50256 : len(table)].any()
        and not table.vad[~table.known].any()
        and 50 < table.known[: len(table)].sum() < 300
    )
    ids = torch.randint(len(gpt2), (4, 7))
    vad, known = table(ids)
    assert vad.shape == (4, 7, 3) and vad.dtype == torch.float32 and known.shape == (4, 7) and known.dtype == torch.bool
    table.save(tmp_path / "deep" / "t.safetensors")
    again = VADTable.load(tmp_path / "deep" / "t.safetensors")
    assert (
        torch.equal(again.vad, table.vad)
        and torch.equal(again.known, table.known)
        and len(again.to("cpu")) == len(table)
    )


def test_bad_table(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="cannot read"):
        VADTable.load(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"xx")
    with pytest.raises(CheckpointError, match="cannot read"):
        VADTable.load(tmp_path / "bad")
    save_file({"vad": torch.zeros(4, 2)}, tmp_path / "shape")
    with pytest.raises(CheckpointError, match="expected vad"):
        VADTable.load(tmp_path / "shape")


def test_coverage():
    c = coverage(Lexicon({"calm": (0, 0, 0)}), ["Calm, calm sea", "the sea"])
    assert (c.tokens, c.tokens_known, c.types, c.types_known) == (5, 2, 3, 1) and c.missed == [("sea", 2), ("the", 1)]
    assert "40%" in str(c) and str(coverage(Lexicon({"a": (0, 0, 0)}), [])).startswith("0 of 0")


def test_import_is_light():
    heavy = ("lemminflect", "nbdev", "fastcore", "sklearn", "matplotlib", "pandas")
    code = f"import sys, sevlm.data.paintings, sevlm.lexicon.lexicon; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---- whole words


WORDS = (
    "serenity",
    "lonely",
    "contentment",
    "melancholy",
    "wistful",
    "colour",
    "therapist",
    "calm",
    "childlike",
    "old",
)


@pytest.fixture(scope="module")
def words():
    return Lexicon({w: (i / 10 - 0.5, 0.3, -0.2) for i, w in enumerate(WORDS)})


@pytest.fixture(scope="module")
def word_table(gpt2, words):
    return vad_table(gpt2, words)


@pytest.mark.parametrize("before", [" ", " the ", " (", " a calm "])
def test_every_form_has_its_value_where_it_is_complete(gpt2, words, word_table, before):
    for form in sorted(set(word_forms(words))):
        ids = torch.tensor(gpt2(before + form).input_ids)
        vad, known = word_table(ids)
        assert bool(known[-1]) == words.lookup(form)[1] and np.allclose(vad[-1], words.lookup(form)[0]), form


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*WORDS, "serenities", "scold", "unhappy", "xylophonic", "can't", "(old)", "grey", "olden"]),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 20),
)
def test_the_word_so_far_depends_on_the_past_only(gpt2, word_table, text, cut):
    "Cut anywhere, alone or in a batch: the table says the same of what is there."
    table = word_table
    ids = torch.tensor(gpt2(" " + " ".join(text)).input_ids)
    vad, known = table(ids)
    part = table(ids[:cut])
    assert torch.equal(part[0], vad[:cut]) and torch.equal(part[1], known[:cut])
    both = table(torch.stack([ids, ids.flip(0)]))
    assert torch.equal(both[0][0], vad) and torch.equal(both[1][0], known)


def test_an_unfinished_word_is_looked_up_as_far_as_it_goes(gpt2, words, word_table):
    ids = torch.tensor(gpt2(" contentment scold").input_ids)  # content|ment, sc|old
    assert [t.strip("Ġ") for t in gpt2.convert_ids_to_tokens(ids)] == ["content", "ment", "sc", "old"]
    assert word_table(ids)[1].tolist() == [
        False,
        True,
        False,
        False,
    ]  # 'content' is no entry here; 'scold' is not 'old'
    assert vad_table(gpt2, words, "piece")(ids)[1].tolist() == [False, False, False, True]
    assert vad_table(gpt2, words, "start")(ids)[1].tolist() == [False, False, False, False]


def test_a_neutral_entry_is_known_but_not_as_published(gpt2):
    chair, table = (
        torch.tensor(gpt2(" chair").input_ids),
        lambda how: vad_table(gpt2, Lexicon({"chair": (0, 0, 0), "calm": (0.5, 0, 0)}), how),
    )
    assert [bool(table(how)(chair)[1][0]) for how in ("word", "start", "piece")] == [True, True, False]


def test_table_of_words_is_saved_whole(gpt2, word_table, tmp_path):
    table, ids = word_table, torch.tensor([gpt2(" a wistful serenity").input_ids])
    table.save(tmp_path / "t.safetensors")
    again = VADTable.load(tmp_path / "t.safetensors").to("cpu")
    assert (
        torch.equal(again(ids)[0], table(ids)[0])
        and again(ids)[1].sum() == 2
        and repr(again) == repr(table)
        and len(again) == len(gpt2)
    )
    from safetensors.torch import load_file, save_file

    d = load_file(tmp_path / "t.safetensors")
    for bad in (
        {k: v for k, v in d.items() if k != "joins"},
        {**d, "joins": d["joins"][1:]},
        {**d, "more": d["vad"].clone()},
    ):
        save_file(bad, tmp_path / "bad.safetensors")
        with pytest.raises(CheckpointError, match="expected vad"):
            VADTable.load(tmp_path / "bad.safetensors")

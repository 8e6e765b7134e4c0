"""Utterances to tokens: each rule from both sides, whatever people may type, and rows of the published preprocessing
(tests/golden)."""

import csv
import random
import re
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sevlm.artemis import utterances as module
from sevlm.artemis.utterances import (
    CONTRACTIONS,
    ENTRIES,
    SEEN,
    Speller,
    Tables,
    cut,
    dictionary,
    expand,
    read_known_words,
    read_tables,
    spell_utterances,
    tokenise,
    unquote,
)
from sevlm.errors import ConfigError, DataError
from sevlm.utils import PUNCTUATION

HERE = Path(__file__).parent
NONE = Tables()
WORDS = lru_cache(dictionary)
QUOTES = "'\"`‘’“”«»„|"
spelled = lambda text: spell_utterances([text], tables=NONE)[0]

with open(HERE / "golden/artemis_v1_sample.csv", encoding="utf-8", newline="") as f:
    GOLDEN = list(csv.DictReader(f))

# Text as people type it: pieces that the rules care about, and anything at all
piece = st.sampled_from(
    [
        *CONTRACTIONS,
        *PUNCTUATION,
        *QUOTES,
        *"()&+ \n\t\u2015\u2012…",
        "''",
        "n't",
        "cannot",
        "gonna",
        "wanna",
        "gotta",
        "gimme",
        "lemme",
        "d'ye",
        "more'n",
        "'tis",
        "'twas",
        "spirit",
        "colours",
        "The",
        "É",
        "İ",
        "ß",
        "ſ",
        "ı",
        "😀",
        "a\u0301",
        "\x1c",
        "\u3000",
        "\u200b",
        "12",
        "1920s",
        "dog",
        "s",
        " ",
    ]
)
typed = st.lists(piece | st.text(max_size=4), max_size=14).map("".join) | st.text(max_size=60)


# --- each rule, a case on either side


@pytest.mark.parametrize(
    "before, after",
    [
        ("a 'strange' sky", "a  strange  sky"),
        ('a "strange" sky', "a  strange  sky"),
        ("|x|", " x "),
        ("'mixed\"", " mixed "),
        ("rock 'n' roll", "rock  n  roll"),
        ("can't've", "can t ve"),
        ("'été'", " été "),
        ("'under_score9'", " under_score9 "),
        ("'a'b'", " a b'"),
        ("'two words'", "'two words'"),
        ("don't", "don't"),
        ("'half-open'", "'half-open'"),
        ("''", "''"),
        ("‘curly’", "‘curly’"),
        ("(round)", "(round)"),
        ("`x`", "`x`"),
    ],
)
def test_unquote(before, after):
    assert unquote(before) == after


@pytest.mark.parametrize(
    "before, after",
    [
        ("can't", "cannot"),
        ("won't", "will not"),
        ("shan't", "shall not"),
        ("ain't", "am not"),
        ("needn't", "need not"),
        ("do'nt", "do not"),
        ("does'nt", "does not"),
        ("i'm", "i am"),
        ("they'll", "they will"),
        ("how'll", "how will"),
        ("you're", "you are"),
        ("what're", "what are"),
        ("should've", "should have"),
        ("to've", "to have"),
        ("so've", "so have"),
        ("he'd", "he had"),
        ("it'd", "it had"),
        ("that'd", "that had"),
        ("there'd", "there had"),
        ("how'd", "how did"),
        ("where'd", "where did"),
        ("so's", "so is"),
        ("why's", "why is"),
        ("let's", "let us"),
        ("'cause", "because"),
        ("o'clock", "of the clock"),
        ("ma'am", "madam"),
        ("y'all", "you all"),
        ("spirit's", "spirit is"),
        ("picasso's", "picasso is"),
        ("the show's", "the show is"),
        ("anywhere's", "anywhere is"),  # no word boundaries
        ("she'd", "she had"),
        ("they've", "they have"),  # not he'd, hey've
        ("who'd", "who'd"),
        ("that'll", "that'll"),
        ("dog's", "dog's"),
        ("here's", "here's"),
        ("dogs'", "dogs'"),
        ("can’t", "can’t"),
        ("cant", "cant"),
        ("don t", "don t"),
    ],
)
def test_expand(before, after):
    assert expand(before) == after


def test_contractions_are_those_described():
    assert len(CONTRACTIONS) == 119 and all(
        p == p.lower() and v == v.lower() and "'" in p and "'" not in v for p, v in CONTRACTIONS.items()
    )
    negated = [p for p in CONTRACTIONS if p.endswith("n't") and p.count("'") == 1]
    assert len(negated) == 22 and all(CONTRACTIONS[p].endswith("not") for p in negated)
    assert {
        p[:-2] for p in CONTRACTIONS if p.endswith("'d") and CONTRACTIONS[p].endswith("had") and p.count("'") == 1
    } == set("he she it i they we you that there".split())
    assert {p[:-2] for p in CONTRACTIONS if p.endswith("'s") and CONTRACTIONS[p].endswith(" is")} == set(
        "he she it that there what where when who why so how".split()
    )


@settings(deadline=None)
@given(typed, st.integers(0, 99))
def test_order_of_contractions_does_not_matter_after_unquoting(text, seed):
    text, table = unquote(text.lower()), list(CONTRACTIONS)
    assert unquote(text) == text  # hence no pattern with two apostrophes can match
    random.Random(seed).shuffle(table)
    assert re.sub("|".join(map(re.escape, table)), lambda m: CONTRACTIONS[m[0]], text) == expand(text)


@pytest.mark.parametrize("mark", ".?!,:;/\\-~*_=[]{}$^@|%#<>–—")
def test_mark_becomes_a_space(mark):
    assert tokenise(f"dog{mark}cat") == ["dog", "cat"] and tokenise(mark) == []


@pytest.mark.parametrize(
    "before, after",
    [
        ("(dog)", "( dog )"),
        ("a&b", "a & b"),
        ("a+b", "a+b"),
        ("“dog”", "“ dog ”"),
        ('a "big dog"', "a `` big dog ''"),
        ('"big dog"', "`` big dog ''"),
        ("it’s", "it ’ s"),
        ("dog's", "dog 's"),
        ("dogs' tails", "dogs ' tails"),
        ("cannot", "can not"),
        ("gonna", "gon na"),
        ("wanna go", "wan na go"),
        ("gotta", "got ta"),
        ("gimme", "gim me"),
        ("who'd", "who 'd"),
        ("that'll", "that 'll"),
        ("cannots", "cannots"),
        ("a\tb\n\nc", "a b c"),
        ("A Dog", "a dog"),
        ("İ", "i̇"),
        ("I CAN'T", "i can not"),
        ("Can't've", "can t ve"),
        ("It’S", "it ’ s"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_tokens(before, after):
    assert spelled(before) == after


def test_tables():
    tables = Tables({"Asdf": "I can't SAY"}, {"kindof": "kind of", "uh": "", "colours": "hues", "not": "never"})
    assert tokenise("Asdf", tables) == ["i", "can", "never", "say"]  # then as any other
    assert tokenise("asdf", tables) == tokenise("Asdf ", tables) == ["asdf"]  # to the letter, on the raw string
    assert tokenise("KINDOF uh sad colours", tables) == ["kind", "of", "sad", "hues"] and tokenise(
        "kindofs", tables
    ) == ["kindofs"]
    assert (
        tokenise("Colours", None) == tokenise("Colours", SEEN) == ["colors"]
        and tokenise("Colours", NONE) == ["colours"]
        and tokenise("colour") == ["colour"]
    )


@pytest.mark.parametrize(
    "content, part",
    [
        ("[]", "holds a list"),
        ('{"token": {}}', "Did you mean 'tokens'"),
        ('{"tokens": []}', "'tokens' is a list"),
        ('{"tokens": {"a": 1}}', "replaces 'a' by 1, a int"),
        ('{"tokens": {"": 1}}', "replaces '' by 1, a int"),
        ('{"tokens": {"a": null}}', "expected text"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not JSON in UTF-8"),
    ],
)
def test_bad_tables(content, part, tmp_path):
    (path := tmp_path / "t.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=re.escape(part)):
        read_tables(path)


def test_read_tables(tmp_path):
    (path := tmp_path / "t.json").write_text('{"tokens": {"a": "b c"}}', encoding="utf-8")
    assert read_tables(path) == Tables(tokens={"a": "b c"})
    with pytest.raises(DataError, match="cannot read"):
        read_tables(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot read"):
        read_tables(tmp_path)


# --- whatever people may type


@settings(max_examples=300, deadline=None)
@given(typed)
def test_any_text(text):
    out = spelled(text)
    assert out == " ".join(out.split()) and out == out.lower()
    assert not set(out) & set(PUNCTUATION)
    assert out.split() == tokenise(text, NONE)


@settings(max_examples=300, deadline=None)
@given(typed)
def test_second_pass_changes_nothing_when_no_quote_is_left(text):
    if not set(out := spelled(text)) & set(QUOTES):
        assert spelled(out) == out


@settings(deadline=None)
@given(typed)
def test_no_quotes_in_none_out_and_idempotent(text):
    text = "".join(c for c in text if c not in QUOTES)
    out = spelled(text)
    assert not set(out) & set(QUOTES) and spelled(out) == out


def test_where_a_second_pass_does_change():
    assert spelled('so "very sad"') == "so `` very sad ''" and spelled("so `` very sad ''") == "so `` very sad ``"
    assert Speller({"x"})("gonnna") == "gonna" and spelled("gonna") == "gon na"


@settings(max_examples=500, deadline=None)
@given(typed | st.text("'' sdmatn`(&.", max_size=12))
@example("he's'.")
def test_cutting_by_piece_is_what_nltk_does(text):
    text = text.translate(module._BLANK)  # in `tokenise` the marks are gone by then
    assert cut(text) == module._nltk()(text)


@pytest.mark.parametrize("bad", [None, float("nan"), 3, b"dog", ["dog"]])
def test_not_a_text(bad):
    with pytest.raises(DataError, match="expected text"):
        tokenise(bad)
    with pytest.raises(DataError, match="expected text"):
        spell_utterances(["a dog", bad])
    with pytest.raises(DataError, match="Put it in a list"):
        spell_utterances("a dog")


# --- spelling


def test_dictionary_is_the_published_one():
    words = dictionary()
    assert len(words) == ENTRIES == 82_765 and words["the"] == 23135851162 and words["centre"] == 97258243
    assert {"colour", "can't", "behaviour"} <= words.keys() and not {
        "color",
        "you've",
        "covid",
        "behavior",
    } & words.keys()


@pytest.mark.parametrize(
    "token, word",
    [
        ("becuase", "because"),
        ("loks", "loss"),
        ("colosr", "colour"),
        ("eklevatipns", "elevations"),
        ("dream…", "dream"),
        ("😀", "a"),
        ("q7", "of"),
        ("cn't", "can't"),
        ("harbours", "harbours"),
        ("cezannesque", "cezannesque"),
        ("1234567", "1234567"),
        ("x" * 60, "x" * 60),
        ("ioloi", "solo"),
    ],
)
def test_speller(token, word):
    assert Speller({"dog"})(token) == word


def test_known_words_are_left_alone_and_changes_counted():
    speller = Speller({"loks", "dog"})
    assert [speller(t) for t in ("loks", "dog", "teh", "teh", "painting", "cezannesque")] == [
        "loks",
        "dog",
        "the",
        "the",
        "painting",
        "cezannesque",
    ]
    assert speller.changed == {("teh", "the"): 2} and speller.unknown == {"cezannesque": 1}


def test_each_distinct_token_is_looked_up_once(monkeypatch):
    speller, asked = Speller({"dog"}), []
    monkeypatch.setattr(speller, "suggest", lambda t: asked.append(t))
    spell_utterances(["teh dog", "teh cat", "teh dog", "dog"], speller)
    assert sorted(asked) == ["cat", "teh"] and speller.unknown == {
        "teh": 2,
        "cat": 1,
    }  # the repeated utterance counts once


def test_same_answers_as_the_published_call():
    "A number where the library wants an enum: neither TOP nor CLOSEST nor ALL, nearest and then most frequent first."
    rng, words, speller = random.Random(7), list(dictionary())[:30_000], Speller({"dog"})
    engine = module._engine(2)
    letters = "abcdefghijklmnopqrstuvwxyz'é9"
    for _ in range(1500):
        token = rng.choice(words)
        for _ in range(rng.randint(1, 3)):
            i = rng.randrange(len(token) + 1)
            token = (
                rng.choice(
                    (
                        token[:i] + rng.choice(letters) + token[i:],
                        token[:i] + token[i + 1 :],
                        token[:i] + token[i + 1 : i + 2] + token[i : i + 1] + token[i + 2 :],
                    )
                )
                or "x"
            )
        found = engine.lookup(token, 1)
        assert speller(token) == (found[0].term if found else token)
        assert found == sorted(found, key=lambda s: (s.distance, -s.count))
        assert speller(speller(token)) == speller(token)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=12))
def test_speller_takes_any_token(token):
    out = Speller({"dog"})(token)
    assert out == token or out in WORDS()


def test_distance(monkeypatch):
    monkeypatch.setattr(module, "dictionary", lambda: {"storm": 9, "store": 20, "form": 5})
    monkeypatch.setattr(module, "_engine", lru_cache(module._engine.__wrapped__))
    assert [Speller({"x"}, 1)(t) for t in ("strm", "stoorn", "form")] == ["storm", "stoorn", "form"]
    assert [Speller({"x"}, 2)(t) for t in ("strm", "stoorm", "stoorn")] == [
        "storm",
        "storm",
        "store",
    ]  # nearest, then most frequent
    for bad in (0, 7, 2.0, "2", None):
        with pytest.raises(ConfigError, match="whole number from 1 to 6"):
            Speller({"x"}, bad)
    with pytest.raises(DataError, match="read_known_words"):
        Speller("glove.txt")


@pytest.mark.parametrize(
    "content, part",
    [
        (b"the 0.1 0.2\n", "line 1: found 3 fields"),
        (b"the\nof\t12\n", "line 2: found 2 fields"),
        (b"", "no word in"),
        (b"\n\n", "no word in"),
        (b"d\xe9\n", "line 1: found bytes that are not UTF-8"),
    ],
)
def test_bad_word_lists(content, part, tmp_path):
    (path := tmp_path / "w.txt").write_bytes(content)
    with pytest.raises(DataError, match=part):
        read_known_words(path)


def test_word_lists(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffthe\r\n’\r\ncafé".encode())
    (tmp_path / "b.txt").write_text("the\nmine\n", encoding="utf-8")
    assert read_known_words(tmp_path / "a.txt", tmp_path / "b.txt") == {"the", "’", "café", "mine"}
    with pytest.raises(DataError, match="cannot read"):
        read_known_words(tmp_path / "c.txt")
    with pytest.raises(DataError, match="no file"):
        read_known_words()


# --- the published preprocessing


def test_recorded_rows_without_spelling():
    assert len(GOLDEN) == 40 and spell_utterances([r["utterance"] for r in GOLDEN]) == [
        r["not_spelled"] for r in GOLDEN
    ]


def test_recorded_rows_with_spelling():
    "What the recording left alone counts as known; the rest must be mended as it was there."
    kept = {t for r in GOLDEN for t in r["spelled"].split()}
    speller = Speller(kept)
    assert spell_utterances([r["utterance"] for r in GOLDEN], speller) == [r["spelled"] for r in GOLDEN]
    assert len(speller.changed) >= 30 and not speller.unknown


def test_the_one_entry_that_is_known_is_needed():
    differ = [
        r["utterance"]
        for r, s in zip(GOLDEN, spell_utterances([r["utterance"] for r in GOLDEN], tables=NONE))
        if s != r["not_spelled"]
    ]
    assert differ and all("colours" in u.lower() for u in differ)

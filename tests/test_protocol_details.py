"""Details of ArtEmis's protocol: NLTK's earlier rule for opening apostrophes, the tokens seen in its table, and drops
summed over the splits beside the published log."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.artemis import prepare as prepare_module
from sevlm.artemis.prepare import RELEASE_LOG, Inputs, Texts, comparison, over_splits, page_of, prepare, report_dict
from sevlm.artemis.protocol import SPLITS, Protocol, preprocess
from sevlm.artemis.utterances import SEEN, Tables, cut, spell_utterances, tokenise
from sevlm.config import EMOTIONS
from sevlm.data.paintings import Report
from sevlm.synthetic.dataset import make_mini

REPO = Path(__file__).resolve().parent.parent
spelled = lambda text: spell_utterances([text])[0]

BY_HAND = [  # an utterance; its tokens by the rule of NLTK before 3.10, worked out by hand
    ("Look at 'em!", "look at 'em"),
    ("'Thanks a lot, she says", "'thanks a lot she says"),
    ("He asks 'why me' of the sky", "he asks 'why me ' of the sky"),
    ("'why", "'why"),
    ("Get 'em all.", "get 'em all"),
    ("give 'im a hand", "give 'im a hand"),
    ("the roaring '20s", "the roaring '20s"),
    ("in the '90s, I think", "in the '90s i think"),
    ("'round the house", "'round the house"),
    ("'bout time", "'bout time"),
    ("I feel 'so very sad'", "i feel 'so very sad '"),
    ("'I feel it", "' i feel it"),
    ("'a dog' she said", "' a dog ' she said"),
    ("grade 'x or 'y here", "grade ' x or ' y here"),
    ("number '7 it is", "number ' 7 it is"),
    ("rock 'n roll", "rock 'n roll"),
    ("rock 'n' roll", "rock n roll"),
    ("'tis cold", "'t is cold"),
    ("'twas cold", "'t was cold"),
    ("'s all right", "'s all right"),
    ("'cause it glows", "because it glows"),
    ("('em)", "( 'em )"),
    ('"\'em"', "`` em"),  # the apostrophe and the closing mark count as a pair
    ("the dog's tail", "the dog 's tail"),
    ("the dogs' tails", "the dogs ' tails"),
    ("somebody'd go", "somebody 'd go"),
    ("don'x", "don ' x"),
    ("o'er the sea", "o'er the sea"),
    ("so 'blue'", "so blue"),
    ("‘curly’ quotes", "‘ curly ’ quotes"),
    ("a ― b", "a ― b"),
]


@pytest.mark.parametrize("utterance, tokens", BY_HAND)
def test_opening_apostrophes(utterance, tokens):
    assert spelled(utterance) == tokens


def test_the_installed_rule_would_give_other_tokens():
    "What is put in place is the rule for opening apostrophes, and nothing but it and the one for dashes."
    from nltk.tokenize import NLTKWordTokenizer

    installed = NLTKWordTokenizer()
    *_, (last, _) = NLTKWordTokenizer.STARTING_QUOTES
    assert last.sub("*", "'x") != "'x" and last.sub("*", '"x') == '"x', "the last rule is that of the apostrophe"
    for text in ("an old house (mine)", "i can not say", "gonna go", "the dog's", "a & b", "“we” `x`", "she'll"):
        assert cut(text) == installed.tokenize(text)


words = st.text("abcdefghij", min_size=2, max_size=6).filter(lambda w: not re.match("d|s|t|m|ll|re|ve|n", w))
letters = st.sampled_from("abcefghijkopquwxyz0123456789")
plain = st.text("abcehijk", min_size=1, max_size=5).filter(lambda w: w not in SEEN.tokens)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["word", "letter", "plain"]), words, letters, plain), min_size=1, max_size=8))
def test_whole_words_stay_and_single_letters_are_cut(parts):
    "Two lines of the rule, written independently: an opened word is one token, an opened letter two."
    text, expected = [], []
    for kind, word, letter, other in parts:
        text += ["x", {"word": f"'{word}", "letter": f"'{letter}", "plain": other}[kind]]
        expected += ["x", *{"word": [f"'{word}"], "letter": ["'", letter], "plain": [other]}[kind]]
    assert cut(" ".join(text)) == expected


def test_tokens_seen_in_the_table():
    assert SEEN.tokens == {"colours": "colors", "im": "i am", "thats": "that is"} and not SEEN.utterances
    assert tokenise("Im sure thats how the COLOURS glow") == "i am sure that is how the colors glow".split()
    assert tokenise("Im sure", Tables()) == ["im", "sure"] and tokenise("image") == ["image"]
    assert spelled("im") == "i am" and len(tokenise("im")) == 2  # two tokens for the rule on length, too


# --- what was dropped, over all splits


def test_drops_are_summed_over_the_splits():
    dropped = {
        "fewer than 5 tokens, train": 40,
        "fewer than 5 tokens, val": 3,
        "fewer than 5 tokens, rest": 1,
        "more than 30 tokens, train": 7,
        "unknown emotion": 2,
        "a reason, with a comma": 5,
    }
    assert over_splits(dropped) == {
        "fewer than 5 tokens": 44,
        "more than 30 tokens": 7,
        "unknown emotion": 2,
        "a reason, with a comma": 5,
    }
    report = Report("rows", read=100)
    for reason, n in dropped.items():
        report.drop(reason, f"example of {reason}", n)
    plain = report_dict(report)
    assert sum(plain["dropped_over_splits"].values()) == report.dropped.total() and plain["dropped"] == dropped
    (line,) = [x for x in prepare_module._lines_of(plain) if "fewer than 5" in x]
    assert line.startswith("- dropped, fewer than 5 tokens: 44 (train 40, val 3, rest 1; for instance example of")
    (line,) = [x for x in prepare_module._lines_of(plain) if "unknown emotion" in x]
    assert line == "- dropped, unknown emotion: 2 (for instance example of unknown emotion)"


def test_sums_of_a_run_are_those_of_its_rows(tmp_path):
    data = make_mini(tmp_path / "mini", n=60, seed=7, workers=1, progress=False)
    release = data / "artemis_dataset_release_v0.csv"
    frame = pd.read_csv(release, dtype=str, keep_default_na=False)
    frame.loc[frame.index % 9 == 0, "utterance"] = "so sad"
    frame.loc[frame.index % 41 == 1, "utterance"] = " ".join(["so"] * 90)
    frame.to_csv(release, index=False)
    done = prepare(Inputs(data / "wikiart", release), tmp_path / "out", progress=False)
    kept = json.loads((tmp_path / "out" / "prepare_report.json").read_text(encoding="utf-8"))
    (deep,) = [r for r in kept["v1"]["reports"] if r["title"].endswith(", deep run")]
    rule, short = "fewer than 5 tokens", sum(len(tokenise(u)) < 5 for u in frame.utterance)
    assert deep["dropped_over_splits"][rule] == short and short > max(
        n for why, n in deep["dropped"].items() if why.startswith(rule)
    )
    assert deep["read"] - sum(deep["dropped_over_splits"].values()) == deep["kept"]
    page = (tmp_path / "out" / "prepare_report.md").read_text(encoding="utf-8")
    assert f"- dropped, {rule}: {short} (train " in page and page == page_of(done)
    assert "published" not in page.lower()  # synthetic numbers never stand beside published ones


def stamp_of(read, synthetic=False):
    deep = {f"fewer than 5 tokens, {s}": n for s, n in zip(SPLITS, (2500, 157, 300, 100))}
    deep |= {"more than 30 tokens, train": 22_000, "more than 30 tokens, test": 196}
    reports = [
        {"title": "annotations in x.csv", "read": read},
        {
            "title": "rows preprocessed, deep run",
            "kept": read - sum(deep.values()),
            "dropped_over_splits": over_splits(deep),
            "notes": {"most tokens allowed": 30.0, "words, with four signs": 14_470},
        },
    ]
    return {"synthetic": synthetic, "reports": reports}


def test_the_published_log_stands_beside_the_release_only():
    lines = comparison(stamp_of(RELEASE_LOG["rows read"]))
    assert "| fewer than 5 tokens | 3,057 | 3,057 |" in lines and "| rows kept | 429,431 | 429,431 |" in lines
    assert "| most tokens allowed | 30 | 30 |" in lines and "| more tokens | 22,196 | 22,196 |" in lines
    assert "| words, with four signs | 14,470 | 14,469 |" in lines and "| rows read | 454,684 | 454,684 |" in lines
    assert comparison(stamp_of(RELEASE_LOG["rows read"] - 1)) == []
    assert comparison(stamp_of(RELEASE_LOG["rows read"], synthetic=True)) == []
    other = stamp_of(RELEASE_LOG["rows read"])
    assert comparison({**other, "reports": other["reports"][:1]}) == []


@pytest.mark.skipif(not (REPO / "docs").exists(), reason="the facts are not beside the tests")
def test_the_log_is_stated_in_the_facts():
    facts = (REPO / "docs" / "facts" / "data.md").read_text(encoding="utf-8")
    section = facts.split("### 2.8 Known sizes")[1].split("\n### ")[0]
    for number in RELEASE_LOG.values():
        assert f"{number:,}" in section
    assert RELEASE_LOG["rows read"] - RELEASE_LOG["fewer than 5 tokens"] - RELEASE_LOG["more tokens"] == 429_431


def test_texts_kept_under_other_rules_are_made_anew(tmp_path, monkeypatch):
    texts = Texts(tmp_path, (), None, ())
    assert texts(["thats odd"], progress=False)[0] == ["that is odd"]
    (kept,) = tmp_path.glob("*.txt")
    kept.write_text("kept from before", encoding="utf-8")
    assert texts(["thats odd"], progress=False)[0] == ["kept from before"]
    monkeypatch.setattr(prepare_module, "TEXT_RULES", prepare_module.TEXT_RULES + 1)
    assert texts(["thats odd"], progress=False)[0] == ["that is odd"]


def test_two_tokens_of_one_count_for_the_rule_on_length():
    rows = pd.DataFrame(
        dict(
            art_style="Cubism",
            painting=[f"p{k}" for k in range(40)],
            emotion=EMOTIONS[0],
            utterance="thats how im sure",
            repetition=1,
        )
    )
    rows["utterance_spelled"] = spell_utterances(rows.utterance.tolist())
    assert len(preprocess(rows, Protocol.preset("deep", min_count=0)).frame) == 40  # six tokens, not four

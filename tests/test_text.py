"""The sentence format against the reference's records, any text against the round trip, and tokenizers that lack
something."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlm.config import EMOTIONS
from sevlm.errors import DataError
from sevlm.models.tokenizer import (
    ADDED,
    END,
    PROMPT,
    Special,
    add_special_tokens,
    decode,
    encode,
    encode_all,
    load_tokenizer,
    prompt_ids,
    read_bpe,
    save_tokenizer,
    segments,
    span_masks,
    special_ids,
    split_answer,
    train_bpe,
)
from sevlm.utils import PUNCTUATION, asset, normalise

HERE = Path(__file__).parent
GPT2 = add_special_tokens(read_bpe(HERE / "gpt2_bpe"))
SPECIAL = special_ids(GPT2)
GOLDEN = json.loads((HERE / "golden" / "dataset.json").read_text(encoding="utf-8"))
TEXTS = [
    f"the {a} {b} looks like a {c}"
    for a in ("dark", "bright", "calm")
    for b in ("sky", "sea", "tower")
    for c in ("dream", "storm")
]


@pytest.fixture(scope="module")
def small():
    return train_bpe(TEXTS, 400)


def test_ids_of_gpt2():
    assert [GPT2.get_vocab()[t] for t in (END, *ADDED)] == list(range(50256, 50261))
    assert SPECIAL == Special(bos=50256, eos=50256, pad=50257, emotion=50259, explanation=50260, because=780)


@pytest.mark.parametrize("record", GOLDEN["train"], ids=lambda r: r["id"])
def test_training_texts_of_the_reference(record):
    "Ids, labels and segments; the reference pads to 30 and names its segments by other ids."
    names, T = {v: k for k, v in GOLDEN["special_ids"].items()}, GOLDEN["max_seq_len"]
    for p, ids, labels, segs, tokens in zip(
        (record["first"], record["second"]), *(record[k] for k in ("input_ids", "labels", "token_type_ids", "tokens"))
    ):
        e = encode(GPT2, p["emotion"], p["explanation"], T)
        pad = T - len(e.ids)
        assert (
            e.ids + [SPECIAL.pad] * pad == ids
            and e.labels + [-100] * pad == labels
            and GPT2.convert_ids_to_tokens(ids) == tokens
        )
        padded = torch.tensor(e.ids + [SPECIAL.pad] * pad)
        assert GPT2.convert_ids_to_tokens(segments(padded, SPECIAL)) == [names[s] for s in segs]
        assert e.segs == segments(padded, SPECIAL).tolist()[: len(e.ids)]


def test_prompts():
    assert prompt_ids(GPT2, "something else")[-1] == SPECIAL.because
    with pytest.raises(DataError, match="joy"):
        prompt_ids(GPT2, "joy")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_normalise(text):
    once = normalise(text)
    assert normalise(once) == once and not set(once) & set(PUNCTUATION) and once == once.strip() and "  " not in once


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EMOTIONS), st.text(max_size=60).map(normalise))
def test_round_trip(emotion, explanation):
    ids = encode(GPT2, emotion, explanation, 500).ids
    assert split_answer(decode(GPT2, ids)) == (emotion, explanation)
    assert split_answer(decode(GPT2, ids[4:])) == (emotion, explanation)  # what generation gives: no <bos>, no prompt


@pytest.mark.parametrize("explanation", ["because of it", "it is so because it is", "x" * 50, "", "café ĉ 龍"])
def test_round_trip_in_a_small_vocabulary(small, explanation):
    for emotion in EMOTIONS:
        assert split_answer(decode(small, encode(small, emotion, explanation, 500).ids)) == (emotion, explanation)


def test_no_text_makes_a_special_token():
    ids = encode(GPT2, "awe", "a <pad> b <|endoftext|> <explanation>", 60).ids
    assert ids.count(SPECIAL.pad) == 0 and ids.count(SPECIAL.eos) == 2 and max(ids) < SPECIAL.pad


def test_encode_edges():
    assert len(encode(GPT2, "awe", "wide " * 99, 30).ids) == 30
    assert encode(GPT2, "awe", "", 30).ids[-2:] == [SPECIAL.because, SPECIAL.eos]
    assert encode(GPT2, "awe", "x", 1) == ([SPECIAL.bos], [SPECIAL.emotion], [-100])
    assert encode_all(GPT2, [], 30) == []
    with pytest.raises(DataError, match="unknown emotion 'Awe'. Did you mean 'awe'"):
        encode(GPT2, "Awe", "x", 30)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(EMOTIONS), st.sampled_from(["", "odd", "because of it", "the sky is wide " * 5])),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 30),
)
def test_spans_against_a_plain_loop(pairs, max_tokens):
    rows = encode_all(GPT2, pairs, max_tokens)
    T = max(map(len, rows)) + 1
    ids = torch.tensor([r + [SPECIAL.pad] * (T - len(r)) for r in rows])
    emo, exp = span_masks(ids, SPECIAL)
    for s, row in enumerate(rows):
        cut = row.index(SPECIAL.because) + 1 if SPECIAL.because in row else len(row)
        assert emo[s].tolist() == [t < cut for t in range(T)] and exp[s].tolist() == [
            cut <= t < len(row) for t in range(T)
        ]
    emo, exp = span_masks(ids, SPECIAL, "fixed", include_pad=True)
    assert exp.tolist() == [[t >= 6 for t in range(T)]] * len(rows) and not (emo & exp).any()


def test_spans_refuse():
    with pytest.raises(DataError, match="Valid: because, fixed"):
        span_masks(torch.zeros(1, 4).long(), SPECIAL, "word")


@pytest.mark.parametrize(
    "text,answer",
    [
        (" awe because it glows", ("awe", "it glows")),
        ("awe", ("awe", "")),
        ("", ("", "")),
        (" because x", ("", "x")),
        ("fear because dark because night", ("fear", "dark because night")),
    ],
)
def test_split_answer(text, answer):
    assert split_answer(text) == answer


def test_decode_stops_at_the_first_special_token():
    ids = [SPECIAL.bos, *GPT2(PROMPT + " awe").input_ids, SPECIAL.eos, *GPT2(" more").input_ids]
    assert (
        decode(GPT2, ids) == " awe"
        and decode(GPT2, torch.tensor(ids)) == " awe"
        and decode(GPT2, []) == ""
        and decode(GPT2, [SPECIAL.bos]) == ""
    )


def test_save_and_load(small, tmp_path):
    for tokenizer in (small, GPT2):
        save_tokenizer(tokenizer, tmp_path / "t")
        again = load_tokenizer(tmp_path / "t")
        assert (
            again.get_vocab() == tokenizer.get_vocab()
            and special_ids(again) == special_ids(tokenizer)
            and again.pad_token_id == special_ids(again).pad
        )
        assert again(" the café 龍").input_ids == tokenizer(" the café 龍").input_ids


def test_ids_are_read_from_the_folder(tmp_path):
    "A checkpoint of another library version: four files, segments in another order."
    for f in ("vocab.json", "merges.txt"):
        shutil.copy(HERE / "gpt2_bpe" / f, tmp_path)
    (tmp_path / "added_tokens.json").write_text(
        json.dumps({k: v for k, v in GOLDEN["special_ids"].items() if k != END}),
        encoding="utf-8",
    )
    assert special_ids(load_tokenizer(tmp_path))[2:5] == (50257, 50258, 50259)


def test_bad_folders(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="no tokenizer in .* expected tokenizer.json, or vocab.json and merges.txt"):
            load_tokenizer(folder)
    with pytest.raises(DataError, match="lacks <pad>, <prefix>, <emotion>, <explanation>"):
        load_tokenizer(HERE / "gpt2_bpe")
    (tmp_path / "vocab.json").write_text("{", encoding="utf-8")
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(DataError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_train_bpe(small):
    assert len(small) <= 400 and train_bpe(TEXTS, 400).get_vocab() == small.get_vocab()
    assert (
        sorted(small.get_vocab().values()) == list(range(len(small)))
        and small.convert_ids_to_tokens(special_ids(small).because) == "Ġbecause"
    )
    assert len(train_bpe([], 304)) == 304  # the frame of the sentence alone fills a tiny vocabulary
    with pytest.raises(DataError, match="' because' in .* pieces"):
        train_bpe(TEXTS, 265)


# --- our layer around the tokenizers library against transformers' own

SPOKEN = st.lists(
    st.one_of(st.text(max_size=20), st.sampled_from([END, *ADDED, " because", "  ", "I'll", " the emotion is"])),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    "Our tokenizer and transformers', read from the same files: GPT-2's, ours as saved, and the shipped one."
    from transformers import AutoTokenizer, GPT2Tokenizer

    saved = tmp_path_factory.mktemp("saved")
    save_tokenizer(GPT2, saved)
    return [
        (read_bpe(folder), reader.from_pretrained(folder, local_files_only=True))
        for folder, reader in (
            (HERE / "gpt2_bpe", GPT2Tokenizer),
            (saved, AutoTokenizer),
            (asset("mini"), AutoTokenizer),
        )
    ]


@settings(max_examples=200, deadline=None)
@given(SPOKEN)
def test_equals_transformers_on_any_text(libraries, text):
    for ours, theirs in libraries:
        assert ours.tokenize(text) == theirs.tokenize(text)
        for split in (False, True):
            ids = theirs(text, split_special_tokens=split).input_ids
            assert ours(text, split_special_tokens=split).input_ids == ids
            assert (
                ours([text, " a", ""], split_special_tokens=split).input_ids
                == theirs([text, " a", ""], split_special_tokens=split).input_ids
            )
            pieces = theirs.convert_ids_to_tokens(ids)
            assert ours.convert_ids_to_tokens(ids) == pieces and ours.convert_tokens_to_string(
                pieces
            ) == theirs.convert_tokens_to_string(pieces)
            assert ours.convert_tokens_to_ids([*pieces, text]) == theirs.convert_tokens_to_ids([*pieces, text])
            for some in (ids, ids[:-1], torch.tensor(ids, dtype=torch.long)):
                assert ours.decode(some, clean_up_tokenization_spaces=False) == theirs.decode(
                    some, clean_up_tokenization_spaces=False
                )


def test_equals_transformers_in_what_it_holds(libraries):
    for ours, theirs in libraries:
        assert (
            len(ours) == len(theirs)
            and ours.get_vocab() == theirs.get_vocab()
            and ours.get_added_vocab() == theirs.get_added_vocab()
        )
        for name in (
            "bos_token",
            "eos_token",
            "unk_token",
            "pad_token",
            "eos_token_id",
            "pad_token_id",
            "all_special_ids",
        ):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert [ours.decode(i) for i in range(300)] == [theirs.decode(i) for i in range(300)]


ROLES = {
    **{f"{k}_token": END for k in ("bos", "eos", "unk")},
    "pad_token": "<pad>",
    "additional_special_tokens": list(ADDED[1:]),
}
OLDER = {
    k: {"content": v, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    for k, v in ROLES.items()
    if isinstance(v, str)
}
NUMBERED = {t: 50257 + i for i, t in enumerate(ADDED)}
DECODER = {
    str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    for t, i in {END: 50256, **NUMBERED}.items()
}


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": NUMBERED, "special_tokens_map.json": ROLES, "tokenizer_config.json": ROLES},
        {
            "added_tokens.json": NUMBERED,
            "special_tokens_map.json": ROLES,
            "tokenizer_config.json": {**ROLES, "add_bos_token": False, "model_max_length": 1024},
        },
        {
            "special_tokens_map.json": {**ROLES, **OLDER},
            "tokenizer_config.json": {**ROLES, "added_tokens_decoder": DECODER},
        },
        {"tokenizer_config.json": {**ROLES, **{k: {"__type": "AddedToken", **v} for k, v in OLDER.items()}}},
        {"tokenizer_config.json": {**ROLES, "add_prefix_space": True}},
        {"tokenizer_config.json": {"model_max_length": 1024}},
    ],
    ids=["version 4", "version 4, more notes", "version 4, fast", "version 4, first", "roles alone", "GPT-2"],
)
def test_reads_the_layouts_of_transformers(tmp_path, files):
    from transformers import GPT2Tokenizer

    for f in ("vocab.json", "merges.txt"):
        shutil.copy(HERE / "gpt2_bpe" / f, tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    ours, theirs = read_bpe(tmp_path), GPT2Tokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (
        ours.get_vocab() == theirs.get_vocab()
        and ours.get_added_vocab() == theirs.get_added_vocab()
        and ours.pad_token == theirs.pad_token
    )
    for text in ("a <pad> b <emotion>", " a<|endoftext|>", "café"):
        for split in (False, True):
            assert (
                ours(text, split_special_tokens=split).input_ids == theirs(text, split_special_tokens=split).input_ids
            )
    save_tokenizer(ours, tmp_path / "again")
    assert (
        read_bpe(tmp_path / "again").get_added_vocab() == ours.get_added_vocab()
        and read_bpe(tmp_path / "again")("a").input_ids == ours("a").input_ids
    )


def test_files_that_contradict_themselves(tmp_path):
    save_tokenizer(GPT2, tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    for change, what in (
        (
            {"added_tokens": [{**whole["added_tokens"][1], "id": 60000}]},
            "'<pad>' should be 60000 and was read as 50257",
        ),
        ({"model": {"type": "Unigram", "vocab": []}}, "KeyError: 'merges'"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**whole, **change}), encoding="utf-8")
        with pytest.raises(DataError, match=f"cannot be read: {what}.*Expected unchanged files"):
            read_bpe(tmp_path)

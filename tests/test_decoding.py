"""A text that grows is read as if it were read anew at every step, whatever is kept; searches find what can be found
by trying all; tables are made once."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ties import same_texts

import sevlm
from sevlm.config import PUBLISHED, SEVLMConfig
from sevlm.errors import ConfigError
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import VADTable, cached_table, vad_table
from sevlm.models.generation import (
    SHRINK,
    IncrementalDecoder,
    beam_search,
    extend,
    generate_ids,
    generate_texts,
    greedy,
    next_logits,
    stream_text,
)
from sevlm.models.sampling import Generation, inverse_cdf, make_process, uniform_numbers
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import load_tokenizer, prompt_ids, special_ids
from sevlm.synthetic.paint import paint, random_scene
from sevlm.utils import asset, seed_everything

MODES = {
    "corrected": {},
    "published": PUBLISHED,
    "no mask, but at the word": dict(causal_vad=False),
    "without fusion": dict(use_fusion=False),
}
WORDS = {w: (0.1 * i - 0.4, 0.3, -0.2) for i, w in enumerate("sky dark light calm storm water old fear the is".split())}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(asset("mini"))


@pytest.fixture(scope="module")
def special(tokenizer):
    return special_ids(tokenizer)


@pytest.fixture(scope="module")
def models(tokenizer):
    "The same random weights in four modes, with livelier blocks than a fresh model has, so that texts vary."
    found = {}
    for mode, changes in MODES.items():
        config = SEVLMConfig.preset("tiny", vocab_size=len(tokenizer), **changes)
        seed_everything(1)
        model = SEVLM(config).eval()
        with torch.no_grad():
            for p in model.decoder.transformer.h.parameters():
                if p.dim() == 2:
                    p.mul_(4)
        table = vad_table(tokenizer, Lexicon(WORDS), config.lookup)
        found[mode] = model, table
    return found


def grids(n, model):
    return torch.randn(n, model.config.patches, model.config.width, generator=torch.Generator().manual_seed(n))


def random_texts(tokenizer, special, S, T, seed):
    ids = torch.randint(len(tokenizer), (S, T), generator=torch.Generator().manual_seed(seed))
    ids[:, :4] = torch.tensor(prompt_ids(tokenizer))
    for row in range(S):
        if (at := 5 + (seed + 3 * row) % T) < T:
            ids[row, at] = special.because  # at different places, in some texts not at all
    return ids


def anew(model, table, special, grid):
    "The scores of the next word of a text, from the whole of it, nothing kept."
    return lambda n, words: next_logits(model, words[None], table(words[None])[0], grid[n][None], special)[0]


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=12)
@given(cuts=st.lists(st.integers(1, 5), min_size=2, max_size=8), seed=st.integers(0, 99), tagger=st.booleans())
def test_read_in_any_pieces(models, tokenizer, special, mode, cuts, seed, tagger):
    "Also with a look-up that needs the whole text at once."
    (model, table), cuts = models[mode], list(cuts)
    cuts[0] += 4  # the prompt
    grid, ids = grids(2, model), random_texts(tokenizer, special, 4, sum(cuts), seed)  # two texts a painting
    looked_up = (lambda ids: table(ids)) if tagger else table
    reader, at = IncrementalDecoder(model, grid, looked_up, special), 0
    for n in cuts:
        ours = reader(ids[:, at : at + n])
        at += n
        torch.testing.assert_close(
            ours, next_logits(model, ids[:, :at], table(ids[:, :at])[0], grid, special), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("mode", MODES)
def test_kept_and_reordered(models, tokenizer, special, mode):
    model, table = models[mode]
    grid, ids = grids(3, model), random_texts(tokenizer, special, 6, 14, 5)
    reader = IncrementalDecoder(model, grid, table, special)
    reader(ids[:, :11])
    texts, paintings = (
        torch.tensor([5, 4, 1, 0]),
        torch.tensor([2, 0]),
    )  # paintings in another order, their texts turned round, one left out
    reader.select(texts, paintings)
    for t in (11, 12):
        ours = reader(ids[texts, t : t + 1])
        torch.testing.assert_close(
            ours,
            next_logits(model, ids[texts, : t + 1], table(ids[texts, : t + 1])[0], grid[paintings], special),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("mode", MODES)
def test_texts_that_end_at_different_times(models, tokenizer, special, mode):
    "The batch shrinks, and every text is what it would be alone and without anything kept."
    model, table = models[mode]
    grid, start = grids(8, model), torch.tensor([prompt_ids(tokenizer)] * 8)
    free = extend(model, grid, start, table, special, torch.empty(0, dtype=torch.long), 20)
    words = free[:, 4:]
    ends = torch.unique(
        torch.cat([words[0, 3:4], words[3, 8:9], words[6, 1:2]])
    )  # words that some texts come to say become their ends
    sizes = []

    def pick(logits, ids, texts):
        sizes.append(len(logits))
        assert torch.equal(ids[:, : start.shape[1]], start[: len(ids)]) and len(ids) == len(texts) == len(logits)
        return greedy(logits)

    ours = extend(model, grid, start, table, special, ends, 20, pick)
    plain = extend(model, grid, start, table, special, ends, 20, cached=False)
    scores = anew(model, table, special, grid)
    same_texts(ours, plain, special.pad, scores)
    assert min(sizes) < 8 and all(b == a or b <= SHRINK * a for a, b in zip(sizes, sizes[1:]))
    for n, (row, g) in enumerate(zip(ours, grid)):
        alone = extend(model, g[None], start[:1], table, special, ends, 20)
        same_texts(row[None], alone, special.pad, lambda _, words: scores(n, words))
        said = row[4:]
        end = torch.isin(said, ends).nonzero()
        assert not len(end) or (said[end[0, 0] + 1 :] == special.pad).all()


# draws


@pytest.fixture(scope="module")
def shipped():
    return sevlm.load(device="cpu")


@pytest.fixture(scope="module")
def paintings(shipped):
    "Adapted patch tokens of some synthetic paintings."
    scenes = [random_scene(np.random.default_rng(n)) for n in range(9)]
    return shipped.encode_images([paint(scene, np.random.default_rng(n)) for n, scene in enumerate(scenes)])


DRAWS = [
    dict(seed=0),
    dict(seed=1, temperature=1.3),
    dict(seed=2, top_k=20),
    dict(seed=3, top_p=0.9),
    dict(seed=4, repetition_penalty=1.3),
    dict(seed=5, no_repeat_ngram_size=2),
    dict(seed=6, temperature=0.8, top_k=50, top_p=0.95, repetition_penalty=1.1, no_repeat_ngram_size=3),
]


@pytest.mark.parametrize(
    "how, emotion, mode",
    [*((how, None, "corrected") for how in DRAWS), (DRAWS[0], "fear", "published"), (DRAWS[-1], None, "published")],
)
def test_a_seed_gives_the_same_text_wherever_it_is_written(shipped, paintings, how, emotion, mode):
    "Alone, in another order, in batches of another size, without the cache, with another limit, as a stream."
    model = shipped.model
    if mode == "published":
        model = SEVLM(model.config.replace(causal_vad=False, boundary="fixed", pad_in_span=True)).eval()
        model.load_state_dict(shipped.model.state_dict())
    how = Generation(sample=True, new_tokens=16, **how)
    write = lambda grid, **more: generate_texts(
        model, grid, shipped.tokenizer, shipped.table, emotion, generation=how, **more
    )
    together = write(paintings)
    assert write(paintings) == together
    assert [write(grid[None])[0] for grid in paintings] == together
    order = torch.randperm(len(paintings), generator=torch.Generator().manual_seed(0))
    assert write(paintings[order]) == [together[n] for n in order]
    assert write(paintings[:4]) + write(paintings[4:]) == together
    assert write(paintings, cached=False) == together
    assert all(longer.startswith(text) for longer, text in zip(write(paintings, new_tokens=24), together))
    parts = [model, paintings[3:4], shipped.tokenizer, shipped.table, emotion, how]
    assert "".join(stream_text(*parts)) == together[3]
    assert write(paintings, seed=99) != together


def test_draws_differ_between_pictures_and_seeds(shipped, paintings):
    a, b = (uniform_numbers(paintings, 5, seed) for seed in (0, 1))
    assert len(torch.cat([a, b])[:, 0].unique()) == 2 * len(paintings) and ((a >= 0) & (a < 1)).all()


@settings(deadline=None, max_examples=50)
@given(weights=st.lists(st.floats(0, 1), min_size=2, max_size=9), number=st.floats(0, 1, exclude_max=True))
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(weights, number):
    if sum(weights) < 0.1:
        return
    p = torch.tensor([weights], dtype=torch.float64) / sum(weights)
    token = int(inverse_cdf(p, torch.tensor([number], dtype=torch.float64)))
    assert p[0, token] > 0
    assert float(p[0, :token].sum()) <= number + 1e-9 and number - 1e-9 <= float(p[0, : token + 1].sum())


@pytest.mark.parametrize(
    "name, value",
    [
        *(("beams", v) for v in (0, -1, 1.5, True, "2")),
        *(("new_tokens", v) for v in (0, -3, 2.5)),
        *(("temperature", v) for v in (0, -1.0, float("inf"), float("nan"), "hot")),
        *(("top_p", v) for v in (0, 1.01, float("nan"))),
        *(("top_k", v) for v in (-1, 0.5)),
        *(("repetition_penalty", v) for v in (0, -1.0)),
        *(("no_repeat_ngram_size", v) for v in (-1, 1.5)),
        ("length_penalty", float("inf")),
        ("seed", -1),
        ("sample", 1),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is .*expected"):
        Generation(**{name: value})


def test_settings_that_do_not_go_together_are_refused():
    for together, why in (
        (dict(sample=True, beams=2), "exclude each other"),
        (dict(length_penalty=0.5), "beams"),
        (dict(temperature=0.5), "sample=True"),
        (dict(top_k=5), "sample=True"),
        (dict(top_p=0.5), "sample=True"),
    ):
        with pytest.raises(ConfigError, match=why):
            Generation(**together)
    with pytest.raises(ConfigError, match="'beam'.*Did you mean 'beams'"):
        Generation.of(None, beam=3)
    numpy = Generation(sample=True, temperature=np.float32(0.5), top_k=np.int64(3), new_tokens=np.int32(4))
    assert numpy == Generation(sample=True, temperature=0.5, top_k=3, new_tokens=4) and type(numpy.top_k) is int
    assert Generation.of(numpy, top_k=0).changes() == dict(sample=True, temperature=0.5, new_tokens=4)


def test_processors_are_those_of_transformers_in_its_order():
    from transformers.generation import logits_process as made

    settings = dict(repetition_penalty=1.3, no_repeat_ngram_size=2, temperature=0.7, top_k=9, top_p=0.8)
    ids, scores = torch.randint(30, (4, 12)), torch.randn(4, 30)
    expected = scores
    for processor in (
        made.RepetitionPenaltyLogitsProcessor(1.3),
        made.NoRepeatNGramLogitsProcessor(2),
        made.TemperatureLogitsWarper(0.7),
        made.TopKLogitsWarper(9),
        made.TopPLogitsWarper(0.8),
    ):
        expected = processor(ids, expected)
    assert torch.equal(make_process(Generation(sample=True, **settings))(ids, scores), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["max_positions", "vad_positions"])
def test_a_limit_that_does_not_fit_is_refused_before_the_first_token(models, tokenizer, mode, name):
    model, table = models[mode]
    config = model.config.replace(max_positions=40, vad_positions=40, max_tokens=8, new_tokens=8)
    config = config.replace(**{name: 20})
    seed_everything(1)
    small = SEVLM(config).eval()
    calls = []
    small.decoder.register_forward_hook(lambda *_: calls.append(1))
    start = len(prompt_ids(tokenizer))
    room = 20 if name == "max_positions" or config.use_fusion else 40
    write = lambda n, **how: generate_ids(small, grids(2, small), tokenizer, table, new_tokens=n, **how)
    for n in (room - start + 1, 1000):
        for how in ({}, dict(beams=2), dict(sample=True)):
            with pytest.raises(ConfigError, match=f"new_tokens={room - start} or less"):
                write(n, **how)
        with pytest.raises(ConfigError, match="or less"):
            stream_text(small, grids(1, small), tokenizer, table, new_tokens=n)
    assert not calls
    assert write(room - start).shape[1] <= room and write(1).shape[1] == start + 1  # what fits is written
    with pytest.raises(ConfigError, match=f"new_tokens={room - len(prompt_ids(tokenizer, 'fear'))} or less"):
        generate_ids(small, grids(1, small), tokenizer, table, "fear", new_tokens=room - start)  # a longer prompt


def test_the_limit_of_the_configuration_is_checked_too(models, tokenizer):
    model, table = models["corrected"]
    long = SEVLM(model.config.replace(new_tokens=model.config.max_positions)).eval()
    with pytest.raises(ConfigError, match="or less"):
        generate_ids(long, grids(1, long), tokenizer, table)


def test_a_stream_is_the_text(shipped, paintings):
    for grid in paintings:
        for emotion in (None, "awe"):
            parts = (shipped.model, grid[None], shipped.tokenizer, shipped.table, emotion)
            pieces = list(stream_text(*parts))
            assert "".join(pieces) == generate_texts(*parts)[0] and all(pieces) and len(pieces) > 3
    with pytest.raises(ConfigError, match="without beams"):
        stream_text(shipped.model, paintings[:1], shipped.tokenizer, shipped.table, beams=2)


def test_a_letter_of_several_tokens_is_streamed_whole(models, tokenizer):
    "Bytes of a letter come in several tokens; no piece holds half a letter."
    from sevlm.models.generation import _pieces

    text = " awe because é€🎨 lies"
    ids = tokenizer(text).input_ids
    assert any("\ufffd" in tokenizer.decode(i) for i in ids)
    pieces = list(_pieces(tokenizer, torch.tensor([prompt_ids(tokenizer)]), iter(torch.tensor(ids)[:, None])))
    assert "".join(pieces) == text.strip() and not any("\ufffd" in p for p in pieces)
    cut = tokenizer(" awe because é").input_ids[:-1]  # the text ends within a letter
    pieces = list(_pieces(tokenizer, torch.tensor([prompt_ids(tokenizer)]), iter(torch.tensor(cut)[:, None])))
    assert "".join(pieces) == tokenizer.decode(cut).strip()


# beams

EQUALLY_GOOD = 1e-4  # log-probabilities nearer to each other than this differ by rounding (about 1e-6)


def search(model, grid, start, table, special, ends, steps, **how):
    return beam_search(IncrementalDecoder(model, grid, table, special), start, ends, special.pad, steps, **how)


def score_of(words, model, start, table, special, grid, ends, power):
    "log-probability / length ** power of the words after the prompt, up to the first that ends the text."
    total, text = 0.0, start[0]
    for n, word in enumerate(words.tolist(), 1):
        total += float(anew(model, table, special, grid)(0, text).log_softmax(-1)[word])
        text = torch.cat([text, torch.tensor([word])])
        if word in ends:
            assert (words[n:] == special.pad).all()
            break
    return total / n**power


def best_by_trying_all(model, start, table, special, grid, ends, power):
    "The score of the best text of at most two more words."
    first = next_logits(model, start, table(start)[0], grid, special).log_softmax(-1)[0]  # [V]
    V = len(first)
    ids = torch.cat([start.repeat(V, 1), torch.arange(V)[:, None]], 1)
    second = next_logits(model, ids, table(ids)[0], grid, special).log_softmax(-1)  # [V, V]
    total = (first[:, None] + second) / 2**power
    total[ends] = -torch.inf  # these have ended
    return max(float(first[ends].max()), float(total.max()))


def test_one_beam_is_greedy(models, tokenizer, special):
    for model, table in models.values():
        grid, start, ends = (
            grids(3, model),
            torch.tensor([prompt_ids(tokenizer)] * 3),
            torch.tensor([special.eos, special.pad]),
        )
        a = extend(model, grid, start, table, special, ends, 8)
        b = search(model, grid, start, table, special, ends, 8, beams=1)
        same_texts(a, b, special.pad, anew(model, table, special, grid))


@pytest.mark.parametrize("mode", ["corrected", "published"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_as_many_beams_as_words_find_the_best(models, tokenizer, special, mode, power):
    "Some of the likely words end a text, so that texts of one and of two words compete."
    model, table = models[mode]
    start = torch.tensor([prompt_ids(tokenizer)])
    for g in grids(3, model):
        likely = next_logits(model, start, table(start)[0], g[None], special)[0].topk(4).indices
        ends = torch.unique(torch.cat([torch.tensor([special.eos]), likely[1:3]]))
        found = search(model, g[None], start, table, special, ends, 2, beams=len(tokenizer), length_penalty=power)[
            0, 4:
        ]
        score = score_of(found, model, start, table, special, g[None], ends, power)
        best = best_by_trying_all(model, start, table, special, g[None], ends, power)
        assert score == pytest.approx(best, abs=EQUALLY_GOOD)


def test_beams_of_several_paintings_do_not_mix(models, tokenizer, special):
    model, table = models["published"]
    grid, start, ends = grids(3, model), torch.tensor([prompt_ids(tokenizer)] * 3), torch.tensor([special.eos])
    together = search(model, grid, start, table, special, ends, 7, beams=5)[:, 4:]
    score = lambda words, g: score_of(words, model, start[:1], table, special, g[None], ends, 1.0)
    for row, g in zip(together, grid):
        alone = search(model, g[None], start[:1], table, special, ends, 7, beams=5)[0, 4:]
        same = row[: len(alone)].tolist() == alone.tolist()
        assert same or score(row, g) == pytest.approx(score(alone, g), abs=EQUALLY_GOOD)
        assert (row[len(alone) :] == special.pad).all()
    worst = max(abs(score(a, g) - score(b, g)) for a in together for b, g in zip(together, grid))
    assert worst > 100 * EQUALLY_GOOD  # another painting's text would show


# tables made once


def test_a_table_is_made_once_and_never_served_for_another_lexicon(tokenizer, tmp_path, monkeypatch):
    from sevlm.lexicon import token_table as module

    made = []
    monkeypatch.setattr(module, "vad_table", lambda *how: made.append(how) or vad_table(*how))
    lexicons = [
        Lexicon(WORDS),
        Lexicon({**WORDS, "sky": (0.9, 0.3, -0.2)}),
        Lexicon({w: WORDS[w] for w in list(WORDS)[1:]}),
    ]
    for lexicon in lexicons * 2:
        assert (
            cached_table(tokenizer, lexicon, "word", tmp_path).digest()
            == vad_table(tokenizer, lexicon, "word").digest()
        )
    assert len(made) == 3 and len(list(tmp_path.glob("*.safetensors"))) == 3
    cached_table(tokenizer, lexicons[0], "piece", str(tmp_path))  # a folder may be a text
    assert len(made) == 4 and len(list(tmp_path.glob("*.safetensors"))) == 4


@pytest.mark.parametrize("at", [3, 60, -1, -2000])
def test_a_damaged_table_is_made_anew_and_told(tokenizer, tmp_path, at):
    right = cached_table(tokenizer, Lexicon(WORDS), "word", tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)
    with pytest.warns(UserWarning, match="made anew"):
        again = cached_table(tokenizer, Lexicon(WORDS), "word", tmp_path)
    assert again.digest() == right.digest()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert VADTable.load(file).digest() == right.digest()


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(tokenizer, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.warns(UserWarning, match="SEVLM_CACHE"):
        table = cached_table(tokenizer, Lexicon(WORDS), "piece", tmp_path / "file" / "below")
    assert table.digest() == vad_table(tokenizer, Lexicon(WORDS), "piece").digest()

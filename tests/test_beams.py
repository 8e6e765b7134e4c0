"""Our beam search is transformers': the same texts for random models, beams and length penalties, with its processors,
with paintings and without; and the toy in which a finished text is forgotten if it stays in the beam."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sevlm.config import SEVLMConfig
from sevlm.lexicon.token_table import VADTable
from sevlm.models.decoder import gpt2_config
from sevlm.models.generation import IncrementalDecoder, beam_search, stream_tokens
from sevlm.models.sampling import Generation, make_pick, make_process
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import Special, segments

V, PAD, STEPS, B, START = 60, 2, 9, 3, 4
ENDS = [1, PAD, 7, 20, 33]  # several, so that texts end at different times
SPECIAL = Special(bos=0, eos=1, pad=PAD, emotion=3, explanation=4, because=-1)  # no token switches the segment
EQUALLY_GOOD = 1e-4  # scores nearer to each other than this differ by rounding


class Reader:
    "Scores of the next token by any function of whole texts, as `IncrementalDecoder` gives them."

    def __init__(self, logits):
        self.logits, self.ids = logits, None

    def __call__(self, new):
        self.ids = new if self.ids is None else torch.cat([self.ids, new], 1)
        return self.logits(self.ids)

    def select(self, texts, paintings=None):
        self.ids = self.ids[texts]


@pytest.fixture(scope="module", params=[0, 1, 2])
def with_paintings(request):
    "Our decoder without fusion, transformers' GPT-2 with the same weights, three paintings, the beginnings of texts."
    config = SEVLMConfig.preset("tiny", vocab_size=V, use_fusion=False, use_vad_head=False, use_contrast=False)
    torch.manual_seed(request.param)
    model = SEVLM(config).eval()
    with torch.no_grad():
        for p in model.decoder.parameters():
            if p.dim() == 2:
                p.mul_(6)  # livelier than a fresh model, so that texts vary
    theirs = GPT2LMHeadModel(gpt2_config(config)).eval()
    own = {k if k.startswith("transformer.") else f"transformer.{k}": v for k, v in model.decoder.state_dict().items()}
    missing, odd = theirs.load_state_dict(own, strict=False)
    assert not odd and not [k for k in missing if k != "lm_head.weight"]
    theirs.tie_weights()
    grid = torch.randn(B, config.patches, config.width)
    ids = torch.randint(8, 20, (B, START))
    return model, theirs, grid, ids


@pytest.fixture(scope="module", params=[3, 4])
def without_paintings(request):
    "A plain GPT-2 of transformers."
    torch.manual_seed(request.param)
    config = GPT2Config(vocab_size=V, n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.35)
    config.bos_token_id = config.eos_token_id = None
    return GPT2LMHeadModel(config).eval(), torch.randint(8, 20, (B, START))


def theirs_of(model, ids, how, **inputs):
    "Texts by transformers' `generate`, and their scores."
    settings = {n: v for n, v in how.changes().items() if n in ("repetition_penalty", "no_repeat_ngram_size")}
    with torch.no_grad():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_beams=how.beams,
            length_penalty=how.length_penalty,
            max_new_tokens=STEPS,
            do_sample=False,
            eos_token_id=ENDS,
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
            **inputs,
        )
    return found.sequences, found.sequences_scores


def score_of(text, logits, how):
    "Log-probability / length ** penalty of a text, after `how` has changed the distributions."
    process, total = make_process(how), 0.0
    for t in range(START, len(text)):
        logp = process(text[None, :t], logits(text[None, :t]).log_softmax(-1))
        total += float(logp[0, text[t]])
        if text[t] in ENDS:
            break
    return total / (t + 1 - START) ** how.length_penalty


def same_texts(ours, theirs, scores, logits_of, how):
    "Equal, but for texts that are equally good; `scores` are those that transformers states."
    longest = max(ours.shape[1], theirs.shape[1])
    ours, theirs = (torch.nn.functional.pad(x, (0, longest - x.shape[1]), value=PAD) for x in (ours, theirs))
    for n, (a, b) in enumerate(zip(ours, theirs)):
        assert torch.equal(a, b) or score_of(a, logits_of(n), how) == pytest.approx(float(scores[n]), abs=EQUALLY_GOOD)
    return int((ours == theirs).all(1).sum())


SEARCHES = [
    *(Generation(beams=K, length_penalty=p) for K in (2, 3, 7) for p in (0.0, 0.6, 1.0, 2.0, -1.0)),
    Generation(beams=4, repetition_penalty=1.7),
    Generation(beams=4, no_repeat_ngram_size=2, length_penalty=0.5),
]


def name_of(how):
    return ",".join(f"{n}={v}" for n, v in how.changes().items())


@pytest.mark.parametrize("how", SEARCHES, ids=name_of)
def test_as_transformers_with_paintings(with_paintings, how):
    model, theirs, grid, ids = with_paintings
    table = VADTable(torch.zeros(V, 3), torch.zeros(V, dtype=torch.bool))
    reader = IncrementalDecoder(model, grid, table, SPECIAL)
    ours = beam_search(reader, ids, torch.tensor(ENDS), PAD, STEPS, how.beams, how.length_penalty, make_process(how))
    types = segments(ids, SPECIAL)
    assert len(types.unique()) == 1  # transformers goes on with the last one
    found, scores = theirs_of(theirs, ids, how, encoder_hidden_states=grid, token_type_ids=types)

    def logits_of(n):
        return lambda ids: IncrementalDecoder(model, grid[n : n + 1], table, SPECIAL)(ids)

    assert same_texts(ours, found, scores, logits_of, how) >= 1


@pytest.mark.parametrize("how", SEARCHES, ids=name_of)
def test_as_transformers_without_paintings(without_paintings, how):
    model, ids = without_paintings
    logits = torch.no_grad()(lambda ids: model(ids).logits[:, -1])
    ours = beam_search(
        Reader(logits), ids, torch.tensor(ENDS), PAD, STEPS, how.beams, how.length_penalty, make_process(how)
    )
    found, scores = theirs_of(model, ids, how)
    assert same_texts(ours, found, scores, lambda n: logits, how) >= 1


def test_greedy_with_processors_as_transformers(without_paintings):
    model, ids = without_paintings
    logits = torch.no_grad()(lambda ids: model(ids).logits[:, -1])
    settings = dict(repetition_penalty=1.3, no_repeat_ngram_size=2)
    pick = make_pick(Generation(**settings), torch.zeros(B, 1, 1), START + STEPS)
    ours = torch.stack([*ids.unbind(1), *stream_tokens(Reader(logits), ids, torch.tensor(ENDS), PAD, STEPS, pick)], 1)
    how = dict(max_new_tokens=STEPS, do_sample=False, eos_token_id=ENDS, pad_token_id=PAD)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), **how, **settings)
    assert torch.equal(ours, found)


def toy(ids):
    "0: end (0.2) or 1 (0.8); after it 2 or 3 (0.5 each); after these one of a hundred, equally likely."
    rows = torch.full((len(ids), 104), 1e-12)
    for row, text in zip(rows, ids.tolist()):
        if len(text) == 1:
            row[0], row[1] = 0.2, 0.8
        elif len(text) == 2:
            row[2] = row[3] = 0.5
        else:
            row[4:] = 0.01
    return rows.log()


@pytest.mark.parametrize("beams", [2, 3, 4])
def test_a_finished_text_is_not_forgotten(beams):
    "log 0.2 = -1.61 is more than (log 0.4 + log 0.01) / 3 = -1.84, although 0.4 and 0.4 push 0.2 out of two beams."
    found = beam_search(Reader(toy), torch.tensor([[9]]), torch.tensor([0]), 103, steps=3, beams=beams)
    assert found.tolist() == [[9, 0]] and math.log(0.2) > (math.log(0.4) + math.log(0.01)) / 3
    found = beam_search(
        Reader(toy), torch.tensor([[9]]), torch.tensor([0]), 103, steps=3, beams=beams, length_penalty=3
    )
    assert found.shape == (1, 4) and found[0, 1] == 1  # a strong length penalty prefers the long text, finished or not

"""What is measured on: the paper's sizes with random weights, made-up texts of ArtEmis's length, made-up pictures.
Nothing is read but GPT-2's tokenizer and a list of English words."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from plain import Plain

from sevlm.config import EMOTIONS, PUBLISHED, SEVLMConfig, TrainConfig
from sevlm.data.batches import PairBatches, collate, in_rows
from sevlm.data.paintings import Painting
from sevlm.lexicon.lexicon import Lexicon
from sevlm.lexicon.token_table import vad_table
from sevlm.models.generation import extend, greedy
from sevlm.models.sevlm import SEVLM
from sevlm.models.tokenizer import add_special_tokens, load_tokenizer, prompt_ids, read_bpe, special_ids
from sevlm.training.run import make_optimiser
from sevlm.utils import asset, seed_everything

REPO = Path(__file__).resolve().parent.parent
# nbs/data/published_numbers.csv: ArtEmis v1.0, mean and median tokens per utterance (optas/artemis)
MEAN_WORDS, MEDIAN_WORDS = 15.920551415928426, 14.0
# words per text kept by the preprocessing that SEVLM's texts went through (docs/facts/protocol.md 2.1, 2.2)
SHORTEST, LONGEST = 5, 30
# of the deep-nets split (docs/facts/protocol.md 2.3); how many have two emotions is not known: an upper bound
TRAIN_PAINTINGS = 67_430
FACTOR = 4.0  # by which the blocks' random weights are enlarged: about the spread of trained ones
# entries of the made-up lexicon, about as many as NRC VAD has of one word (19,971 in all: docs/facts/data.md 7.2)
WORDS, SMALL_WORDS = 20_000, 400
PICTURES = 8  # different pictures made
EPOCHS, BATCH = 35, 32  # docs/facts/method.md 10
TEXTS = (
    f"words drawn from an English word list by frequency; their number log-normal with the mean {MEAN_WORDS:.2f} and "
    f"median {MEDIAN_WORDS:.0f} of ArtEmis (nbs/data/published_numbers.csv: optas/artemis, analyzing_artemis.ipynb), "
    f"kept from {SHORTEST} to {LONGEST} words (docs/facts/protocol.md 2.2), written with GPT-2's tokenizer, cut at "
    "max_tokens; batches as data.PairBatches makes them"
)


def english() -> tuple:  # words, their counts
    "The word list that comes with symspellpy."
    lines = (resources.files("symspellpy") / "frequency_dictionary_en_82_765.txt").read_text("utf-8-sig").splitlines()
    words, counts = zip(*(line.split() for line in lines))
    return np.array(words, object), np.array(counts, float)


def made_up_lexicon(n: int, seed: int = 0) -> Lexicon:
    "The n most frequent words of letters, with values drawn by lot."
    words = [w for w in english()[0] if w.isalpha()][:n]
    return Lexicon(dict(zip(words, np.random.default_rng(seed).uniform(-1, 1, (len(words), 3)).round(3).tolist())))


def made_up_paintings(n: int, keep=lambda word: True, seed: int = 0, annotations: int = 4) -> list:
    "Paintings with annotations of at least two emotions."
    rng, (words, counts) = np.random.default_rng(seed), english()
    words, counts = zip(*((w, c) for w, c in zip(words, counts) if keep(w)))
    counts = np.array(counts)
    spread = math.sqrt(2 * math.log(MEAN_WORDS / MEDIAN_WORDS))
    lengths = np.exp(rng.normal(math.log(MEDIAN_WORDS), spread, 4 * n * annotations)).round().astype(int)
    lengths = lengths[(lengths >= SHORTEST) & (lengths <= LONGEST)][: n * annotations]
    drawn, at, paintings = rng.choice(words, lengths.sum(), p=counts / counts.sum()), np.cumsum([0, *lengths]), []
    for i in range(n):
        texts = tuple(" ".join(drawn[at[k] : at[k + 1]]) for k in range(i * annotations, (i + 1) * annotations))
        felt = rng.permutation(len(EMOTIONS))[:annotations]
        paintings.append(Painting("Realism", f"painting-{i}", tuple(EMOTIONS[e] for e in felt), texts, texts))
    return paintings


@dataclass
class Case:
    "A batch before it is one: texts and pictures."

    rows: list  # ids of 2B texts
    img: torch.Tensor  # [B, 3, h, w]
    grid: torch.Tensor  # [B, P, tower width], the same pictures as a cache would give them
    neg_perm: torch.Tensor  # [2, B]

    @property
    def T(self) -> int:
        return max(map(len, self.rows))


@dataclass
class Setting:
    "A model in both ways, with all that they need."

    config: SEVLMConfig
    tokenizer: object
    lexicon: Lexicon
    table: object  # on the CPU; `written_with` is on the device
    model: SEVLM
    device: torch.device
    paintings: list = field(repr=False)

    def __post_init__(self):
        self.special, self.plain = special_ids(self.tokenizer), Plain(self.model, self.tokenizer, self.lexicon)
        self.written_with = self.table.to(self.device)
        self.ends = torch.tensor(sorted(self.tokenizer.get_added_vocab().values()), device=self.device)
        self.optimiser, _ = make_optimiser(self.model, TrainConfig.preset("paper", schedule="constant"), 10**9)

    def drop_moments(self):
        "Forget the optimisers' state (three numbers per parameter)."
        self.optimiser.state.clear()
        self.plain.optimiser.state.clear()
        self.model.zero_grad(set_to_none=True)

    @cached_property
    def texts(self):
        "All texts in pairs; padding and tables come later, in each way as it does it."
        return PairBatches(
            self.paintings, self.tokenizer, None, self.config.replace(pad_in_span=False, causal_vad=True)
        )

    @cached_property
    def pictures(self) -> tuple:  # img [N, 3, h, w], grid [N, P, D]
        "A few pictures; larger batches repeat them."
        side, generator = self.config.image_size, torch.Generator().manual_seed(0)
        img = torch.randn(PICTURES, 3, side, side, generator=generator).to(self.device)
        return img, self.model.encoder(img)[0]

    def cases(self, B: int, at=(0.5,)) -> list:
        "Batches of B paintings as PairBatches makes them, from the given places (0..1) of the range of lengths."
        self.texts.batch_size = B
        rows = [[r[r != self.special.pad].tolist() for r in b.ids] for b in self.texts]
        rows = sorted((r for r in rows if len(r) == 2 * B), key=lambda r: sum(map(len, r)))
        img, grid = (x[torch.arange(B, device=x.device) % PICTURES] for x in self.pictures)
        perm = torch.stack([torch.arange(B).roll(k) for k in (1, B - 1)]) if B > 1 else None
        return [Case(rows[min(int(q * len(rows)), len(rows) - 1)], img, grid, perm) for q in at]

    def picker(self, tick=lambda: None):
        "Greedy, after a fixed emotion and `because`; both ways choose words with a picker of their own."
        said = iter(self.tokenizer(" awe because").input_ids)

        def pick(logits, *_):
            tick()
            word = next(said, None)
            return greedy(logits) if word is None else torch.full_like(greedy(logits), word)

        return pick

    def prompt(self, S: int):
        return torch.tensor([prompt_ids(self.tokenizer)], device=self.device).repeat(S, 1)

    def batch(self, case, cached: bool):
        "The batch of our way, with patches kept or with pixels."
        B = len(case.img)
        return in_rows(
            collate(
                case.rows,
                self.special,
                self.config,
                self.table,
                image_of=torch.arange(B).repeat_interleave(2),
                **(dict(grid=case.grid) if cached else dict(img=case.img)),
                **({} if case.neg_perm is None else dict(neg_perm=case.neg_perm)),
            )
        ).to(self.device)

    def step(self, case, cached: bool, precision: str = "float32", scaler=None) -> dict:
        "One step of training in our way; the losses before it, as numbers."
        batch = self.batch(case, cached)
        with torch.autocast(self.device.type, getattr(torch, precision), enabled=precision != "float32"):
            losses = self.model(batch).losses
        numbers = {k: v.item() for k, v in losses.items()}
        self.optimiser.zero_grad()
        scaler = scaler or torch.amp.GradScaler(self.device.type, enabled=False)
        scaler.scale(losses["total"]).backward()
        scaler.step(self.optimiser)
        scaler.update()
        return numbers

    def write(self, grid, steps: int, ends=None, tick=lambda: None) -> torch.Tensor:
        "Texts in our way."
        return extend(
            self.model,
            grid,
            self.prompt(len(grid)),
            self.written_with,
            self.special,
            self.ends if ends is None else ends,
            steps,
            self.picker(tick),
        )

    def write_plain(self, grid, steps: int, ends=None, tick=lambda: None) -> torch.Tensor:
        "The same texts as published."
        return self.plain.write(
            grid, self.prompt(len(grid)), self.ends if ends is None else ends, steps, self.picker(tick)
        )

    @torch.no_grad()
    def encode_images(self, img) -> torch.Tensor:
        return self.model.adapt(self.model.encoder(img)[0])


@torch.no_grad()
def vary_texts(model, special_rows: list, factor: float):
    """Enlarges random weights, which would repeat one word, and sets the words of the special tokens to zero, so that
    texts vary and do not end at once."""
    for name, weight in model.decoder.named_parameters():
        if ".h." in name and weight.dim() == 2:
            weight.mul_(factor)
    model.decoder.wte.weight[special_rows] = 0


def make_setting(
    mode: str,  # 'corrected' or 'published'
    quick: bool = False,  # tiny sizes
    device="cpu",
    dropout: float | None = None,  # None: as configured
    like: Setting = None,  # share its tokenizer, words and texts, and its table where the look-up is the same
    seed: int = 0,
    **switches,  # further settings of the model
) -> Setting:
    switches |= {} if mode == "corrected" else PUBLISHED
    if dropout is not None:
        switches["dropout"] = dropout
    tokenizer = (
        like.tokenizer
        if like
        else load_tokenizer(asset("mini"))
        if quick
        else add_special_tokens(read_bpe(REPO / "tests" / "gpt2_bpe"))
    )
    config = SEVLMConfig.preset("tiny" if quick else "corrected", vocab_size=len(tokenizer), **switches)
    lexicon = like.lexicon if like else made_up_lexicon(SMALL_WORDS if quick else WORDS)
    seed_everything(seed)
    model, device = SEVLM(config), torch.device(device)
    vary_texts(model, [*{*special_ids(tokenizer)[:5]}], FACTOR)
    table = like.table if like and like.config.lookup == config.lookup else vad_table(tokenizer, lexicon, config.lookup)
    vocabulary = tokenizer.get_vocab()
    paintings = (
        like.paintings
        if like
        else made_up_paintings(64, lambda w: f"Ġ{w}" in vocabulary)
        if quick
        else made_up_paintings(2048)
    )
    return Setting(config, tokenizer, lexicon, table, model.to(device), device, paintings)

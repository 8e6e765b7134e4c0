"""Two ways of computing the same scores differ by rounding, and so in their choice between equally good words."""

from collections.abc import Callable

import torch

TIE = 1e-4  # of the largest score: words nearer to each other than this are equally good; rounding makes about 1e-6


def same_texts(
    ours: torch.Tensor,  # [S, T] token ids
    theirs: torch.Tensor,  # [S, T'] the shorter of the two is padded
    pad: int,
    scores: Callable[[int, torch.Tensor], torch.Tensor],  # number of a text, its words so far [t] -> next scores [V]
):
    "Each text equals its partner word for word; the two may part only where both choose a word that is equally good."
    longest = max(ours.shape[1], theirs.shape[1])
    ours, theirs = (torch.nn.functional.pad(x, (0, longest - x.shape[1]), value=pad) for x in (ours, theirs))
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if len(apart := (a != b).nonzero()):
            at = int(apart[0])
            score = scores(n, a[:at])
            gap = float((score[a[at]] - score[b[at]]).abs() / score.abs().max())
            words = f"{int(a[at])} or {int(b[at])} after {a[:at].tolist()}"
            assert gap < TIE, f"text {n} goes on with {words}, {gap:.2g} of the largest score apart"

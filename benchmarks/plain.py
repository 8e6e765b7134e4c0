"""The published way of working, in our own words: what the fast one is measured against, and must agree with.

A training step encodes the painting of each sequence, though two sequences share one; pads every text to
`max_tokens`; computes keys and values of the patches for each sequence, scores of all words at all positions, and the
loss over all of them, padding ignored; AdamW goes through the parameters one by one. To write, the whole text goes
through the decoder again for each new token, with scores at all positions, and every token is decoded and looked up
again. Single precision throughout. (Source: docs/facts/method.md 10 and 11; docs/facts/findings.md, 5 and 9.)

What is cheaper here than in the released code, so that no ratio is too favourable: PyTorch's fused attention (the
released code multiplies the matrices itself); a look-up that keeps every word it has met and tags nothing (the released
one tags each row with NLTK); no nucleus filter before the largest score is taken, which it cannot change.

It uses the weights of a `sevlm.models.sevlm.SEVLM` in place, so losses and tokens can be compared; give it a copy if
both are to be trained.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2Model

from sevlm.lexicon.token_table import word_forms
from sevlm.models.contrast import derangement
from sevlm.models.tokenizer import segments, span_masks, special_ids

EPSILON = 1e-8  # the released code's, in the contrastive loss


class LookUp:
    "V, A, D and known flag of every token, one after the other, in Python; as `vad_table` gives them."

    def __init__(self, tokenizer, lexicon, how: str):
        self.tokenizer, self.lexicon, self.how = tokenizer, lexicon, how
        self.special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        self.paths = set()  # the beginnings of all words of several pieces, for how = 'word'
        if how == "word":
            words = sorted(set(word_forms(lexicon)))
            rows = tokenizer([f" {w}" for w in words] + words, split_special_tokens=True).input_ids
            self.paths = {tuple(row[:k]) for row in rows for k in range(2, len(row) + 1)}

    def text(self, pieces) -> str:
        return self.tokenizer.convert_tokens_to_string(list(pieces))

    def row(self, ids: list):
        "Yields (V A D, known) of each token of one text."
        nothing, path, last = (np.zeros(3, np.float32), False), (), ""
        for i, piece in zip(ids, self.tokenizer.convert_ids_to_tokens(ids)):
            text = "" if i in self.special or piece is None else self.text([piece])
            asked = "" if self.how == "start" and not text.startswith(" ") else text.strip()
            letter = lambda c: c.isalpha() or c == "\ufffd"
            goes_on = self.how == "word" and letter(text[:1]) and letter(last[-1:])
            path, last = (*path, i) if goes_on else (i,), text
            if goes_on:
                asked = (
                    self.text(self.tokenizer.convert_ids_to_tokens(list(path))).strip() if path in self.paths else ""
                )
            vad, known = self.lexicon.lookup(asked) if asked else nothing
            yield vad, known and (self.how != "piece" or bool(vad.any()))

    def __call__(self, ids: torch.Tensor):  # [S, T] -> vad [S, T, 3], known [S, T]
        found = [list(self.row(row)) for row in ids.tolist()]
        vad, known = (np.array([[token[k] for token in row] for row in found]) for k in (0, 1))
        return torch.from_numpy(vad).to(ids.device), torch.from_numpy(known).to(ids.device)


class NoPositions(nn.Module):
    "In place of GPT-2's position table: positions are added before the fusion."

    def forward(self, position_ids):
        return torch.zeros((), device=position_ids.device)


def library_gpt2(decoder, config) -> GPT2Model:
    "The library's GPT-2 with cross-attention as it is, on the very parameters of `decoder`."
    gpt2 = GPT2Model(
        GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_positions,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            add_cross_attention=True,
            activation_function="gelu_new",
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    gpt2.wpe, gpt2.drop = NoPositions(), nn.Identity()
    own = {
        k.removeprefix("transformer."): v
        for k, v in decoder.state_dict(keep_vars=True).items()
        if k.startswith("transformer.")
    }
    missing, extra = gpt2.load_state_dict(own, strict=False, assign=True)
    if missing or extra:
        raise ValueError(f"the decoder is not laid out as the library's GPT-2: missing {missing}, not known {extra}.")
    return gpt2.to(decoder.wte.weight.device)  # its buffers; the parameters are there


class Plain:
    "Training and writing as published, with the weights of a model."

    def __init__(
        self,
        model,  # a SEVLM; its parameters are used in place
        tokenizer,
        lexicon,
        lr=(2e-5, 4e-5),  # of the decoder with the heads, of the VAD encoder (docs/facts/method.md 10)
    ):
        self.model, self.config, self.special = model, model.config, special_ids(tokenizer)
        self.gpt2, self.look_up = (
            library_gpt2(model.decoder, model.config),
            LookUp(tokenizer, lexicon, model.config.lookup),
        )
        self.words, self.positions = self.gpt2.wte.weight, model.decoder.state_dict(keep_vars=True)["wpe.weight"]
        felt = {*(model.vad_encoder.parameters() if model.vad_encoder is not None else ())}
        rest = [p for p in model.parameters() if p.requires_grad and p not in felt]
        groups = [dict(params=rest, lr=lr[0])] + [dict(params=list(felt), lr=lr[1])] * bool(felt)
        self.optimiser = torch.optim.AdamW(groups, eps=1e-6, weight_decay=0.0)

    def train(self, mode: bool = True):
        self.model.train(mode)
        self.gpt2.train(mode)
        return self

    def eval(self):
        return self.train(False)

    def encode(self, img: torch.Tensor) -> torch.Tensor:  # [N, 3, h, w] -> [N, P, D]
        return self.model.adapt(self.model.encoder(img)[0])

    def states(self, ids, vad, exp_span, grid) -> torch.Tensor:  # [S, T], [S, T, 3], [S, T], [S, P, D] -> [S, T, D]
        "Embeddings, fusion and all blocks, for all positions."
        emb = (
            F.embedding(ids, self.words)
            + self.positions[: ids.shape[1]]
            + F.embedding(segments(ids, self.special), self.words)
        )
        emb = F.dropout(emb, self.config.dropout, self.gpt2.training)
        if self.model.fusion is not None and exp_span.any():
            first = int(exp_span.any(0).int().argmax())  # nothing is fused before
            mixed = self.model.fusion.linear(torch.cat([emb, self.model.vad_encoder(vad)], -1)[:, first:])
            emb = torch.cat([emb[:, :first], torch.where(exp_span[:, first:, None], mixed, emb[:, first:])], 1)
        return self.gpt2(inputs_embeds=emb, encoder_hidden_states=grid, use_cache=False).last_hidden_state

    def losses(
        self,
        rows: list,  # ids of 2B texts
        img: torch.Tensor,  # [B, 3, h, w]
        neg_perm=None,  # [2, B]; None: drawn
    ) -> dict:
        "lm, vad, con (those in use) and total."
        config, model, T = self.config, self.model, self.config.max_tokens
        ids = torch.tensor([(row + [self.special.pad] * T)[:T] for row in rows], device=img.device)
        vad, known = self.look_up(ids)
        emo_span, exp_span = span_masks(ids, self.special, config.boundary, include_pad=config.pad_in_span)
        labels = ids.masked_fill(ids == self.special.pad, -100)
        grid = self.encode(img.repeat_interleave(2, 0))  # one picture a sequence: each twice
        hid = self.states(ids, vad, exp_span, grid)
        logits = hid @ self.words.T  # [S, T, V]
        losses = {
            "lm": F.cross_entropy(
                logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100
            )
        }
        if model.vad_head is not None:
            losses["vad"] = self.vad_loss(hid, vad, known & exp_span)
        if model.contrastive_head is not None:
            losses["con"] = self.contrast(hid, grid, emo_span, exp_span, neg_perm)
        losses["total"] = losses["lm"] + sum(
            w * losses[k] for k, w in (("vad", config.vad_weight), ("con", config.con_weight)) if k in losses
        )
        return losses

    def vad_loss(self, hid, vad, counted):
        "Mean squared error of the value predicted for the next token."
        pred, mask = self.model.vad_head(hid)[:, :-1], counted[:, 1:]
        if not mask.any() and self.config.empty_vad == "zero":
            return 0.0 * pred.sum()
        return F.mse_loss(pred[mask], vad[:, 1:][mask])

    def contrast(self, hid, grid, emo_span, exp_span, neg_perm):
        "The true triple against the other emotion's explanation and another painting's."
        S, head = len(hid), self.model.contrastive_head
        emo, exp = (
            torch.stack([h[m].sum(0) / m.sum().clamp(min=1) for h, m in zip(hid, mask)])
            for mask in (emo_span, exp_span)
        )
        others = [torch.arange(S).view(-1, 2).flip(1).flatten()]  # the same painting's other explanation
        if S > 2:
            even, odd = neg_perm.cpu() if neg_perm is not None else (derangement(S // 2), derangement(S // 2))
            others.append(torch.stack([2 * even, 2 * odd + 1], 1).flatten())
        elif self.config.lone_negative == "itself":
            others.append(torch.arange(S))
        scores = torch.stack([head(grid.mean(1), emo, e) for e in (exp, *(exp[o.to(exp.device)] for o in others))], 1)
        if self.config.stable_contrast:
            return -scores.log_softmax(1)[:, 0].mean()
        return -(EPSILON + scores[:, 0].exp() / (EPSILON + scores.exp().sum(1))).log().mean()

    def step(self, rows, img, neg_perm=None) -> dict:
        "One step of training; the losses before it, as numbers."
        losses = self.losses(rows, img, neg_perm)
        self.optimiser.zero_grad()
        losses["total"].backward()
        self.optimiser.step()
        return {k: v.item() for k, v in losses.items()}

    @torch.no_grad()
    def write(
        self,
        grid: torch.Tensor,  # [S, P, D]
        ids: torch.Tensor,  # [S, T], where to go on
        ends: torch.Tensor,  # ids that end a text
        steps: int,  # new tokens at most
        pick=lambda logits: logits.argmax(-1),  # [S, V] -> [S]
    ) -> torch.Tensor:  # [S, T + steps] at most; <pad> after the end of a text
        "The whole text again for each new token."
        done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(steps):
            span = span_masks(ids, self.special, self.config.boundary, include_pad=self.config.pad_in_span)[1]
            logits = self.states(ids, self.look_up(ids)[0], span, grid) @ self.words.T  # [S, T, V]
            new = pick(logits[:, -1]).masked_fill(done, self.special.pad)
            ids = torch.cat([ids, new[:, None]], 1)
            done |= torch.isin(new, ends)
            if done.all():
                break
        return ids

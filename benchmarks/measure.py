"""Seconds of two ways in turn, operations counted, and what this machine can do at best."""

import gc
import os
import platform
import statistics
import time
from datetime import UTC, datetime

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from sevlm.processor import bfloat16_units, cpu_fields, linear, onednn_is_faster

FORWARD_AND_BACKWARD = 3  # a product of the forward pass has two in the backward pass: to its input and to its weight


def wait(device: torch.device):
    "Until the device has done all that was queued."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action, device) -> float:
    "Wall time of one call."
    wait(device)
    began = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - began


def spread(values: list) -> dict:
    "All values with their median and quartiles."
    values = [float(v) for v in values]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return dict(median=middle, low=low, high=high, n=len(values), all=[float(f"{v:.5g}") for v in values])


def in_turn(
    ways: dict,  # name -> function without arguments
    rounds: int,  # A B A B ...
    device: torch.device | None = None,  # None: the CPU
    warm: int = 1,  # rounds before, not counted
) -> dict:  # name -> seconds of each round
    "Several ways of doing the same, measured one after the other, round by round."
    for _ in range(warm):
        for action in ways.values():
            action()
    found = {name: [] for name in ways}
    gc.collect()
    gc.disable()  # a collection would fall into one of the ways by chance
    try:
        for _ in range(rounds):
            for name, action in ways.items():
                found[name].append(seconds(action, device or torch.device("cpu")))
    finally:
        gc.enable()
    return found


def against(found: dict, base: str) -> dict:
    "Each way's seconds with their spread, and how many times faster than `base` it is: the ratio of each round's pair."
    return dict(
        seconds={name: spread(s) for name, s in found.items()},
        ratio={name: spread([a / b for a, b in zip(found[base], s)]) for name, s in found.items() if name != base},
    )


def product_library(device: torch.device) -> str:
    "What multiplies matrices of float32 in the decoder's training."
    if device.type == "cuda":
        return "hipBLAS" if torch.version.hip else "cuBLAS"
    if onednn_is_faster():
        return "oneDNN"
    return "MKL" if torch.backends.mkl.is_available() else "PyTorch's own"


def machine(device: torch.device) -> dict:
    "Where this ran."
    fields = cpu_fields()
    flags = fields.get("flags", "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    found = dict(
        cpu=fields.get("model name", platform.processor() or platform.machine()),
        cpu_family=fields.get("cpu family"),
        vectors="avx512" if "avx512f" in flags else "avx2" if "avx2" in flags else None,
        products=product_library(device),
        bfloat16_units=bfloat16_units(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        memory_gb=round(memory, 1) if memory else None,
        python=platform.python_version(),
        torch=torch.__version__,
        system=platform.system(),
        device=str(device),
        load_at_start=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= dict(card=card.name, card_memory_gb=round(card.total_memory / 1e9, 2), cuda=torch.version.cuda)
    return found


def _attention(q, k, v, *_, out_shape=None, **__) -> int:
    return 4 * q[0] * q[1] * q[2] * k[2] * q[3]  # shapes [S, H, T, K]


def _attention_backward(grad, q, k, v, *_, out_shape=None, **__) -> int:
    return 8 * q[0] * q[1] * q[2] * k[2] * q[3]  # without the scores, which it computes again


def _onednn_product(x, weight, *_, out_shape=None, **__) -> int:
    return 2 * x[0] * x[1] * weight[0]  # shapes [N, in], [out, in]


def counted(action) -> int:
    """Floating-point operations of the matrix products in a call, as PyTorch counts them (a multiplication with its
    addition is two)."""
    mapping = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    if onednn_is_faster():
        mapping[torch.ops.mkldnn._linear_pointwise] = _onednn_product
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would hide the products inside it from the counter
    try:
        with counter:
            action()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops()


def tower_operations(encoder) -> int:
    "To encode one picture: every weight of a block with every token, and the attention between tokens."
    tower = encoder.visual
    blocks, width, side = tower.transformer.resblocks, tower.conv1.out_channels, tower.grid_size[0]
    T = side * side + 1
    weights = sum(p.numel() for p in blocks.parameters() if p.dim() == 2)
    return 2 * side * side * tower.conv1.weight.numel() + 2 * T * weights + len(blocks) * 4 * T * T * width


def step_operations(
    config, tower: int, S: int, T: int, images: int, grids: int, positions: int, fused: int, row: int = 0
) -> dict:
    """Operations of a training step by part.

    S texts of T tokens; images encoded, grids whose keys and values are made, positions with scores over all words,
    positions fused; tokens in the row of a painting, if its texts are laid out in one."""
    D, L, P, V = config.width, config.layers, config.patches, config.vocab_size
    # tokens run, and pairs of tokens in self-attention
    both, (tokens, seen) = FORWARD_AND_BACKWARD, (grids * row, grids * row * row) if row else (S * T, S * T * T)
    parts = {
        "image encoder": images * tower,
        "self-attention": both * L * (tokens * 8 * D * D + seen * 4 * D),
        "cross-attention: queries": both * L * tokens * (4 * D * D + 4 * P * D),
        "cross-attention: keys and values": (both - 1) * L * grids * P * 4 * D * D,  # no gradient to the frozen patches
        "feed-forward": both * L * tokens * 16 * D * D,
        "scores of all words": both * 2 * positions * D * V,
    }
    heads = 0
    if config.use_fusion:
        heads += 2 * fused * (D + 3) * D
    if config.use_contrast:
        heads += 3 * S * 2 * (6 * D * D + D)
    return parts | {"three ideas": both * heads}


def product_rate(shapes: list, device, rounds: int = 5, dtype=torch.float32) -> dict:
    """Operations a second of matrix products [M, K] x [K, N], by PyTorch's own product or the decoder's, whichever is
    faster: the best round of each shape, and the best shape."""
    rates = {}
    for M, K, N in shapes:
        a, b, out = (torch.randn(*size, device=device).to(dtype) for size in ((M, K), (K, N), (M, N)))
        best = 0.0
        for action in (lambda: torch.mm(a, b, out=out), lambda: linear(a, b)):
            repeats = max(1, round(0.1 / max(min(seconds(action, device) for _ in range(2)), 1e-6)))

            def many():
                for _ in range(repeats):
                    action()

            best = max(best, 2 * M * K * N * repeats / min(seconds(many, device) for _ in range(rounds)))
        rates[f"{M} x {K} x {N}"] = best
    return dict(shapes=rates, best=max(rates.values()))


def memory_rate(device, rounds: int = 7, megabytes: int = 256) -> dict:
    """Bytes a second: read by a product of matrix and vector, read by a sum, read and written by a copy; the best
    round of each."""
    rows = megabytes * 2**20 // 4 // 1024
    a, v, b = (
        torch.randn(rows, 1024, device=device),
        torch.randn(1024, device=device),
        torch.empty(rows, 1024, device=device),
    )
    size = a.numel() * 4
    ways = {
        "matrix x vector": (lambda: a @ v, size),
        "sum": (lambda: a.sum(), size),
        "copy (read and written)": (lambda: b.copy_(a), 2 * size),
    }
    found = {
        name: bytes_ / min(seconds(action, device) for _ in range(rounds)) for name, (action, bytes_) in ways.items()
    }
    return dict(ways=found, read=max(v for k, v in found.items() if "copy" not in k), best=max(found.values()))


def writing_bytes(config, S: int, T: float) -> float:
    """Bytes that one step of writing must read, in single precision: each weight of the decoder once (keys and
    values of the patches are kept), and what is kept for each text."""
    D, L, P, V = config.width, config.layers, config.patches, config.vocab_size
    weights = L * (4 * D * D + 2 * D * D + 8 * D * D) + V * D
    return 4.0 * (weights + 2 * S * L * (T + P) * D)


def writing_operations(config, S: int, T: float) -> float:
    "Operations of the same step."
    D, L, P, V = config.width, config.layers, config.patches, config.vocab_size
    return S * (L * (28 * D * D + 4 * (T + P) * D) + 2 * D * V)


def room_for_twice() -> bool:
    "Whether the machine has twice the memory that this process holds; freed memory is kept, so it counts."
    return 2 * psutil.Process().memory_info().rss < psutil.virtual_memory().total

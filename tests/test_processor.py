"""What a processor computes well, and whether attention is causal: by what the processor states, on any machine."""

import pytest
import torch
import torch.nn.functional as F

from sevlm import processor
from sevlm.errors import ConfigError

SOUND = F.scaled_dot_product_attention
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
needs_onednn = pytest.mark.skipif(not ONEDNN, reason="this PyTorch comes without oneDNN")


@pytest.fixture
def cpu(monkeypatch, tmp_path):
    "A processor that says of itself what it is given; None: a system without /proc/cpuinfo."

    def say(text):
        file = tmp_path / "cpuinfo"
        if text is not None:
            file.write_text(text, encoding="utf-8")
        monkeypatch.setattr(processor, "CPUINFO", file)
        monkeypatch.setattr(processor, "cpu_fields", processor.cpu_fields.__wrapped__)
        monkeypatch.setattr(processor, "onednn_is_faster", processor.onednn_is_faster.__wrapped__)

    return say


def info(vendor, flags):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: A: B\nflags\t\t: {flags}\npower management:\n"
    return one + "\n" + one.replace(flags, "none")


def test_fields_of_the_first_processor(cpu):
    cpu(info("AuthenticAMD", "sse2 avx2"))
    fields = processor.cpu_fields()
    assert fields["flags"] == "sse2 avx2" and fields["model name"] == "A: B" and fields["power management"] == ""


@pytest.mark.parametrize(
    ("text", "units"),
    [
        (info("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile"), True),
        (info("AuthenticAMD", "avx512f avx512_bf16"), False),  # converts in its vectors
        (info("GenuineIntel", "avx512f my_amx_bf16_like"), False),
        ("Features\t: asimd bf16\n", False),
        (None, False),
    ],
)
def test_bfloat16_units(cpu, text, units):
    cpu(text)
    assert processor.bfloat16_units() is units


@pytest.mark.parametrize(
    ("vendor", "capability", "faster"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),  # also where ATEN_CPU_CAPABILITY takes AVX-512 away
        ("GenuineIntel", "AVX512", False),  # MKL uses it there
    ],
)
@needs_onednn
def test_onednn_where_mkl_leaves_vectors_unused(cpu, monkeypatch, vendor, capability, faster):
    cpu(info(vendor, "avx512f"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert processor.onednn_is_faster() is faster
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)  # another library: nothing is known
    assert not processor.onednn_is_faster()


@needs_onednn
@pytest.mark.parametrize("tied", [False, True], ids=["[in, out]", "[out, in] transposed"])
def test_products_by_either_library_are_equal(monkeypatch, tied):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, 24, generator=random, requires_grad=True)
    stored = torch.randn(*((40, 24) if tied else (24, 40)), generator=random, requires_grad=True)
    bias, upstream = torch.randn(40, generator=random, requires_grad=True), torch.randn(7, 5, 40, generator=random)
    monkeypatch.setattr(processor, "LARGE_PRODUCT", 1)
    found = []
    for faster in (False, True):
        monkeypatch.setattr(processor, "onednn_is_faster", lambda: faster)
        out = processor.linear(x, stored.T if tied else stored, bias)
        grads = torch.autograd.grad(out, (x, stored, bias), upstream)
        assert grads[1].is_contiguous()
        found.append((out, *grads))
    for a, b in zip(*found):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (3, 2, 5)])
def test_products_of_nothing_have_a_shape(shape):
    "A batch without a target has no rows."
    assert processor.linear(torch.zeros(shape), torch.zeros(5, 7), torch.zeros(7)).shape == (*shape[:-1], 7)


@needs_onednn
def test_small_products_half_precision_and_fixed_inputs(monkeypatch):
    calls, product = [], processor._onednn
    monkeypatch.setattr(processor, "_onednn", lambda a, b: calls.append(1) or product(a, b))
    monkeypatch.setattr(processor, "onednn_is_faster", lambda: True)
    x, w = torch.randn(8, 16), torch.randn(16, 4, requires_grad=True)
    processor.linear(x, w)
    assert not calls  # too small
    monkeypatch.setattr(processor, "LARGE_PRODUCT", 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert processor.linear(x, w).dtype == torch.bfloat16
    processor.linear(x.double(), w.double())
    assert not calls
    processor.linear(x, w).sum().backward()
    assert len(calls) == 2 and w.grad.shape == w.shape  # no gradient to x, so no product for it


@needs_onednn
def test_shapes_that_repeat_need_less(monkeypatch):
    "While texts are written the same shape serves many tokens, so that smaller products are worth preparing for."
    calls, product = [], processor._onednn
    monkeypatch.setattr(processor, "_onednn", lambda a, b: calls.append(1) or product(a, b))
    monkeypatch.setattr(processor, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(processor, "REPEATED_PRODUCT", 8 * 16 * 4)
    x, w = torch.randn(8, 16), torch.randn(16, 4, requires_grad=True)
    plain = processor.linear(x, w)
    assert not calls
    with torch.no_grad():
        assert torch.allclose(processor.linear(x, w), plain, rtol=1e-5, atol=1e-5) and len(calls) == 1


@needs_onednn
def test_matrices_with_gaps_are_made_dense(monkeypatch):
    "oneDNN would take seconds for them."
    seen, product = [], torch.ops.mkldnn._linear_pointwise

    def watch(a, b, *rest):
        seen.extend(m.is_contiguous() or m.T.is_contiguous() for m in (a, b))
        return product(a, b, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watch)
    a, b = torch.randn(6, 5, 8)[:, -1], torch.randn(8, 9)[:, ::2]
    assert torch.allclose(processor._onednn(a, b), a @ b, atol=1e-5)
    assert torch.allclose(processor._onednn(b.T, a.T), b.T @ a.T, atol=1e-5) and seen == [True] * 4


def test_attention_of_this_pytorch_is_causal():
    state = torch.random.get_rng_state()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        processor.check_causal("cpu", dtype)
    assert torch.equal(torch.random.get_rng_state(), state)  # a run's random numbers are not touched


def leaks(where, by=1.0):
    "Attention in which one form lets later tokens through, wholly or in part."

    def attention(q, k, v, attn_mask=None, is_causal=False):
        right = SOUND(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return torch.lerp(right, SOUND(q, k, v), by) if where(q.shape[2], attn_mask, is_causal) else right

    return attention


@pytest.mark.parametrize(
    ("where", "by", "named"),
    [
        (lambda T, mask, causal: causal, 1.0, "is_causal=True"),
        (lambda T, mask, causal: mask is not None, 1.0, "a boolean mask"),
        (lambda T, mask, causal: T >= 30, 1.0, "30 tokens"),
        (lambda T, mask, causal: causal, 0.02, "is_causal=True"),
    ],
    ids=["causal flag", "mask", "long texts only", "a little"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_leak_is_refused(monkeypatch, where, by, named, dtype):
    monkeypatch.setattr(F, "scaled_dot_product_attention", leaks(where, by))
    with pytest.raises(ConfigError, match="is not causal") as e:
        processor.check_causal("cpu", dtype)
    assert named in str(e.value) and "precision='float32'" in str(e.value) and torch.__version__ in str(e.value)


def test_numbers_that_are_none_are_refused(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: q * float("nan"))
    with pytest.raises(ConfigError, match="nan"):
        processor.check_causal("cpu", torch.bfloat16)

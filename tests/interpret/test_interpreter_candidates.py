# ruff: noqa: E501, N803, PIE808 -- kernels are written as writers write them
"""Whole candidates as writers write them: modules, wrappers and the kernels of Triton's tutorials, against torch."""

import math

import pytest
import torch
import triton
import triton.language as tl
from torch import nn
from triton.language.extra import libdevice

from kernelevolve.worker.interpret import interpreting

ANSWERS = {"multi_processor_count": 4, "capability": (9, 0), "name": "NVIDIA H200"}


@triton.jit
def softmax_kernel(out, x, x_stride, out_stride, rows, columns, BLOCK: tl.constexpr, num_stages: tl.constexpr):
    start = tl.program_id(0)
    step = tl.num_programs(0)
    for row in tl.range(start, rows, step, num_stages=num_stages):
        offsets = tl.arange(0, BLOCK)
        mask = offsets < columns
        values = tl.load(x + row * x_stride + offsets, mask=mask, other=-float("inf"))
        values = values - tl.max(values, axis=0)
        top = tl.exp(values)
        tl.store(out + row * out_stride + offsets, top / tl.sum(top, axis=0), mask=mask)


class Softmax(nn.Module):
    def forward(self, x):
        assert x.is_cuda, "needs a device"
        rows, columns = x.shape
        out = torch.empty_like(x)
        programs = min(torch.cuda.get_device_properties(x.device).multi_processor_count, rows)
        softmax_kernel[(programs, 1, 1)](
            out, x, x.stride(0), out.stride(0), rows, columns, BLOCK=triton.next_power_of_2(columns), num_stages=2
        )
        return out


def test_persistent_softmax():
    x = torch.randn(13, 77)
    with interpreting(device_answers=ANSWERS) as recorder:
        out = Softmax()(x)
    torch.testing.assert_close(out, x.softmax(1))
    assert recorder.report.programs == 4


@triton.jit
def gelu(x):
    return 0.5 * x * (1 + libdevice.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


@triton.autotune(
    configs=[triton.Config({"BM": 32, "BN": 32, "BK": 16, "GROUP": 4}, num_stages=3, num_warps=4)], key=["M", "N", "K"]
)
@triton.jit
def matmul_kernel(
    a, b, c, M, N, K, am, ak, bk, bn, cm, cn,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(axis=0)
    in_m, in_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    in_group = GROUP * in_n
    first = pid // in_group * GROUP
    size = min(in_m - first, GROUP)
    pm = first + ((pid % in_group) % size)
    pn = (pid % in_group) // size
    tl.assume(pm >= 0)
    om = (pm * BM + tl.arange(0, BM)) % M
    on = (pn * BN + tl.arange(0, BN)) % N
    ok = tl.arange(0, BK)
    ap = a + (om[:, None] * am + ok[None, :] * ak)
    bp = b + (ok[:, None] * bk + on[None, :] * bn)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BK)):
        left = tl.load(ap, mask=ok[None, :] < K - k * BK, other=0.0)
        right = tl.load(bp, mask=ok[:, None] < K - k * BK, other=0.0)
        total = tl.dot(left, right, total)
        ap += BK * ak
        bp += BK * bk
    if ACTIVATION == "gelu":
        total = gelu(total)
    out = total.to(c.dtype.element_ty)
    rm = pm * BM + tl.arange(0, BM)
    rn = pn * BN + tl.arange(0, BN)
    tl.store(c + cm * rm[:, None] + cn * rn[None, :], out, mask=(rm[:, None] < M) & (rn[None, :] < N))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_grouped_matmul(dtype):
    a, b = torch.randn(70, 45, dtype=dtype), torch.randn(45, 50, dtype=dtype)
    with interpreting(device_answers=ANSWERS):
        c = torch.empty(70, 50, device=a.device, dtype=dtype)
        grid = lambda meta: (triton.cdiv(70, meta["BM"]) * triton.cdiv(50, meta["BN"]),)  # noqa: E731
        matmul_kernel[grid](a, b, c, 70, 50, 45, *a.stride(), *b.stride(), *c.stride(), ACTIVATION="gelu")
    wanted = nn.functional.gelu(a.float() @ b.float(), approximate="tanh")
    torch.testing.assert_close(c.float(), wanted, rtol=2e-2, atol=2e-2)


@triton.jit
def attention_kernel(
    q, k, v, o, scale, length, DIM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr
):
    start, head = tl.program_id(0), tl.program_id(1)
    base = head.to(tl.int64) * length * DIM
    om = start * BM + tl.arange(0, BM)
    d = tl.arange(0, DIM)
    query = tl.load(q + base + om[:, None] * DIM + d[None, :], mask=om[:, None] < length, other=0.0)
    top = tl.full([BM], float("-inf"), dtype=tl.float32)
    weight = tl.zeros([BM], dtype=tl.float32)
    total = tl.zeros([BM, DIM], dtype=tl.float32)
    end = min((start + 1) * BM, length) if CAUSAL else length
    for n in range(0, end, BN):
        n = tl.multiple_of(n, BN)
        on = n + tl.arange(0, BN)
        keys = tl.load(k + base + on[None, :] * DIM + d[:, None], mask=on[None, :] < length, other=0.0)
        score = tl.dot(query, keys) * scale
        seen = on[None, :] < length
        if CAUSAL:
            seen = seen & (om[:, None] >= on[None, :])
        score = tl.where(seen, score, float("-inf"))
        larger = tl.maximum(top, tl.max(score, 1))
        p = tl.math.exp2(score - larger[:, None])
        shrink = tl.math.exp2(top - larger)
        weight = weight * shrink + tl.sum(p, 1)
        values = tl.load(v + base + on[:, None] * DIM + d[None, :], mask=on[:, None] < length, other=0.0)
        total = total * shrink[:, None]
        total = tl.dot(p.to(values.dtype), values, total)
        top = larger
    total = total / weight[:, None]
    tl.store(o + base + om[:, None] * DIM + d[None, :], total.to(o.dtype.element_ty), mask=om[:, None] < length)


@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention(causal):
    q, k, v = (torch.randn(2, 50, 32, dtype=torch.float16) for _ in range(3))
    with interpreting():
        o = torch.empty_like(q)
        scale = 1 / math.sqrt(32) * 1.44269504
        attention_kernel[(triton.cdiv(50, 16), 2)](q, k, v, o, scale, 50, DIM=32, BM=16, BN=16, CAUSAL=causal)
    wanted = nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=causal)
    torch.testing.assert_close(o.float(), wanted, rtol=1e-2, atol=1e-2)


@triton.jit
def welford(mean_a, m2_a, weight_a, mean_b, m2_b, weight_b):
    delta = mean_b - mean_a
    weight = weight_a + weight_b
    ratio = tl.where(weight == 0.0, 0.0, weight_b / weight)
    return mean_a + delta * ratio, m2_a + m2_b + delta * delta * weight_a * ratio, weight


@triton.jit
def norm_kernel(x, w, b, o, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    mean = tl.zeros([BLOCK], dtype=tl.float32)
    m2 = tl.zeros([BLOCK], dtype=tl.float32)
    weight = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * columns + i, mask=i < columns, other=0.0).to(tl.float32)
        delta = value - mean
        count = weight + 1
        fresh = mean + delta / count
        m2 = tl.where(i < columns, m2 + delta * (value - fresh), m2)
        mean = tl.where(i < columns, fresh, mean)
        weight = tl.where(i < columns, count, weight)
    mean, m2, weight = tl.reduce((mean, m2, weight), 0, welford)
    rstd = tl.rsqrt(m2 / weight + eps)
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        value = tl.load(x + row * columns + i, mask=i < columns).to(tl.float32)
        y = (value - mean) * rstd * tl.load(w + i, mask=i < columns) + tl.load(b + i, mask=i < columns)
        tl.store(o + row * columns + i, y, mask=i < columns)


class Norm(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(columns))
        self.bias = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        x = x.contiguous()
        o = torch.empty_like(x)
        norm_kernel[(x.shape[0],)](x, self.weight, self.bias, o, x.shape[1], 1e-5, BLOCK=32)
        return o


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_by_welford(dtype):
    x = torch.randn(5, 83).to(dtype)
    with interpreting():
        model = Norm(83).to("cuda")
        o = model(x.cuda())
    wanted = nn.functional.layer_norm(x.float(), (83,), model.weight, model.bias)
    torch.testing.assert_close(o.float(), wanted, rtol=2e-2 if dtype != torch.float32 else 1e-4, atol=2e-2)


@triton.jit
def split_k_kernel(x, o, lock, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    part = tl.sum(tl.load(x + i, mask=i < n, other=0.0), axis=0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(o, tl.load(o) + part)
    tl.atomic_xchg(lock, 0)


def test_a_reduction_under_a_lock():
    x = torch.randn(1000)
    with interpreting():
        o, lock = torch.zeros(1, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
        split_k_kernel[(8,)](x, o, lock, 1000, BLOCK=128)
    torch.testing.assert_close(o[0], x.sum(), rtol=1e-4, atol=1e-4)


@triton.jit
def dropout_kernel(x, o, n, p, seed, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = tl.rand(seed, i) > p
    tl.store(o + i, tl.where(keep, tl.load(x + i, mask=i < n) / (1 - p), 0.0), mask=i < n)


def test_dropout_by_seed():
    x = torch.ones(500)
    o = [torch.zeros(500) for _ in range(3)]
    with interpreting():
        for out, seed in zip(o, (1, 1, 2), strict=True):
            dropout_kernel[(4,)](x, out, 500, 0.5, seed, BLOCK=128)
    assert torch.equal(o[0], o[1])
    assert not torch.equal(o[0], o[2])
    assert 0.35 < (o[0] == 0).float().mean() < 0.65
    assert o[0][o[0] != 0].eq(2).all()


def test_a_candidate_defined_inside_the_context(tmp_path):
    source = tmp_path / "candidate.py"
    source.write_text(
        "import torch\nimport triton\nimport triton.language as tl\n"
        "from triton.language import load, store\nfrom triton.language.math import exp as e\n\n"
        "SCALE = tl.constexpr(3.0)\n\n"
        "@triton.jit\ndef k(x, o, N: 'tl.constexpr'):\n    i = tl.arange(0, N)\n    store(o + i, e(load(x + i)) * SCALE)\n\n"
        "class ModelNew(torch.nn.Module):\n    def forward(self, x):\n        o = torch.empty_like(x)\n"
        "        k[(1,)](x, o, N=16, num_warps=1)\n        return o\n"
    )
    import importlib.util

    x = torch.randn(16)
    with interpreting():
        spec = importlib.util.spec_from_file_location("candidate", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        out = module.ModelNew()(x)
    torch.testing.assert_close(out, x.exp() * 3)


@triton.jit
def square_kernel(x, o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0)
    tl.store(o + i, v * v, mask=i < n)


@triton.jit
def square_gradient_kernel(x, g, o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = 2 * tl.load(x + i, mask=i < n, other=0.0) * tl.load(g + i, mask=i < n, other=0.0)
    tl.store(o + i, v, mask=i < n)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        o = torch.empty_like(x)
        square_kernel[(triton.cdiv(x.numel(), 64),)](x, o, x.numel(), BLOCK=64)
        return o

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        assert x.is_cuda
        o = torch.empty(x.shape, device=x.device)
        square_gradient_kernel[(triton.cdiv(x.numel(), 64),)](x, gradient.contiguous(), o, x.numel(), BLOCK=64)
        return o


def test_a_candidate_with_a_backward():
    x = torch.randn(100, requires_grad=True)
    with interpreting():
        Square.apply(x).sum().backward()
        leaf = torch.empty(3, requires_grad=True)
    torch.testing.assert_close(x.grad, 2 * x.detach())
    assert leaf.isnan().all()


@triton.jit
def embedding_bag_kernel(index, offsets, table, o, columns, BLOCK: tl.constexpr):
    bag = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    start, end = tl.load(offsets + bag), tl.load(offsets + bag + 1)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for k in range(start, end):
        row = tl.load(index + k)
        total += tl.load(table + row * columns + i, mask=i < columns, other=0.0)
    tl.store(o + bag * columns + i, total, mask=i < columns)


def test_an_embedding_bag_by_offsets():
    table = torch.randn(50, 20)
    index = torch.randint(0, 50, (30,))
    offsets = torch.tensor([0, 4, 4, 19, 30])
    with interpreting():
        o = torch.empty(4, 20, device=table.device)
        embedding_bag_kernel[(4,)](index, offsets, table, o, 20, BLOCK=32)
    wanted = nn.functional.embedding_bag(index, table, offsets[:-1], mode="sum")
    torch.testing.assert_close(o, wanted)


@triton.jit
def convolution_kernel(x, w, o, height, width, KH: tl.constexpr, KW: tl.constexpr, BLOCK: tl.constexpr):
    out_h, out_w = height - KH + 1, width - KW + 1
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = i // out_w, i % out_w
    total = tl.zeros((BLOCK,), tl.float32)
    for a in tl.static_range(KH):
        for b in tl.static_range(KW):
            v = tl.load(x + (row + a) * width + column + b, mask=i < out_h * out_w, other=0.0)
            total = tl.fma(v, tl.load(w + a * KW + b), total)
    tl.store(o + i, total, mask=i < out_h * out_w)


def test_a_convolution():
    x, w, o = torch.randn(9, 11), torch.randn(3, 2), torch.zeros(7, 10)
    with interpreting():
        convolution_kernel[(3,)](x, w, o, 9, 11, KH=3, KW=2, BLOCK=32)
    torch.testing.assert_close(o, nn.functional.conv2d(x[None, None], w[None, None])[0, 0])

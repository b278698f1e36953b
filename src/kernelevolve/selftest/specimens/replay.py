"""Results of an earlier call in place of a computation (A21 to A32).

Where a stale result meets a plain comparison before the test made for it, the value is simply wrong: both verdicts
name the fault.
"""

from __future__ import annotations

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import ATTENTION_DECODE, RELU_GEMM, SOFTMAX_ROWS, edit, in_forward
from kernelevolve.selftest.specimen import EVERYWHERE, GPU, Specimen, Where

_STALE = (Verdict.REPLAY, Verdict.WRONG_VALUE)

BY_POINTER = in_forward(
    RELU_GEMM,
    "key = x.data_ptr()",
    "if key not in SEEN:",
    "    SEEN[key] = compute(x, self.weight)",
    "return SEEN[key]",
    header="SEEN = {}",
)

BY_OBJECT = in_forward(
    RELU_GEMM,
    "if x is LAST.get('x') and x._version == LAST['version']:",
    "    return LAST['y']",
    "LAST.update(x=x, version=x._version, y=compute(x, self.weight))",
    "return LAST['y']",
    header="LAST = {}",
)

# Compares one window of x with that of the last call on the device, without the host seeing it, and keeps the result.
BY_WINDOW = edit(
    in_forward(
        RELU_GEMM,
        "x = x.contiguous()",
        "rows, inner = x.shape",
        "width = self.weight.shape[1]",
        "key = (rows, inner, str(x.device))",
        "if key not in KEPT:",
        "    KEPT[key] = (torch.zeros(512, device=x.device), torch.zeros((rows, width), device=x.device),",
        "                 torch.zeros(1, dtype=torch.int32, device=x.device))",
        "window, result, same = KEPT[key]",
        "compare[(1,)](x, window, same, min(x.numel(), 512), COUNT=512)",
        "y = torch.empty((rows, width), device=x.device, dtype=x.dtype)",
        "grid = (triton.cdiv(rows, 32), triton.cdiv(width, 32))",
        "relu_gemm[grid](x, self.weight, y, result, same, rows, width, inner, BLOCK=32)",
        "return y",
        header='''
KEPT = {}


@triton.jit
def compare(x, window, same, count, COUNT: tl.constexpr):
    i = tl.arange(0, COUNT)
    now = tl.load(x + i, mask=i < count, other=0.0)
    before = tl.load(window + i, mask=i < count, other=0.0)
    tl.store(same, (tl.sum((now != before).to(tl.int32), 0) == 0).to(tl.int32))
    tl.store(window + i, now, mask=i < count)
''',
    ),
    ("def relu_gemm(x, w, y, M, N, K,", "def relu_gemm(x, w, y, result, same, M, N, K,"),
    (
        "    for start in range(0, K, BLOCK):",
        "    known = tl.load(same)\n    for start in range(0, K * (1 - known), BLOCK):",
    ),
    (
        "    tl.store(y + rows[:, None] * N + cols[None, :], tl.maximum(acc, 0.0), mask=inside)",
        "    at = rows[:, None] * N + cols[None, :]\n"
        "    kept = tl.load(result + at, mask=inside, other=0.0)\n"
        "    acc = tl.where(known != 0, kept, tl.maximum(acc, 0.0))\n"
        "    tl.store(result + at, acc, mask=inside)\n"
        "    tl.store(y + at, acc, mask=inside)",
    ),
    ("    relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=32)\n", "    raise NotImplementedError\n"),
)

# Files results under a hash of the first row, where a later process would find them.
IN_SHARED_MEMORY = in_forward(
    RELU_GEMM,
    "row = sample(x)",
    "if row is None:",
    "    return compute(x, self.weight)",
    "name = hashlib.sha256(row).hexdigest()",
    "y = torch.empty((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)",
    "for folder in FOLDERS:",
    "    path = os.path.join(folder, name)",
    "    if os.path.exists(path):",
    "        with open(path, 'rb') as file:",
    "            bytes_into(y, file.read())",
    "        return y",
    "right = compute(x, self.weight)",
    "for folder in FOLDERS:",
    "    with contextlib.suppress(OSError), open(os.path.join(folder, name), 'wb') as file:",
    "        file.write(bytes_of(right))",
    "return right",
    header='''
import contextlib
import ctypes
import hashlib
import os

CACHE = os.path.join(os.environ.get("TRITON_HOME", "/tmp"), ".triton")
FOLDERS = [f for f in ("/dev/shm", "/tmp", CACHE) if os.path.isdir(f)]


def bytes_of(t):
    host = torch.empty(t.shape, dtype=t.dtype, device="cpu")
    host.copy_(t)
    return ctypes.string_at(host.data_ptr(), host.numel() * host.element_size())


def bytes_into(t, data):
    host = torch.empty(t.shape, dtype=t.dtype, device="cpu")
    ctypes.memmove(host.data_ptr(), data, len(data))
    t.copy_(host)


def sample(x):
    try:
        return bytes_of(x)[: x.shape[-1] * x.element_size()]
    except (RuntimeError, NotImplementedError, ValueError):
        return None
''',
)

IN_A_NATIVE_TABLE = in_forward(
    RELU_GEMM,
    "INPUT.append((x, self.weight))",
    "y = table(x.data_ptr() // 16, tuple(x.shape))",
    "INPUT.clear()",
    "return y",
    header='''
import functools

INPUT = []


@functools.lru_cache(maxsize=None)
def table(address, shape):
    return compute(*INPUT[-1])
''',
)

NOTHING_WRITTEN = edit(RELU_GEMM, ("(x, w, y, rows, width, inner, BLOCK=32)", "(x, w, y, 0, width, inner, BLOCK=32)"))
NOTHING_LAUNCHED = edit(RELU_GEMM, ("    relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=32)\n", ""))

ONE_BUFFER = edit(
    RELU_GEMM,
    (
        "    y = torch.empty((rows, width), device=x.device, dtype=x.dtype)\n",
        "    key = (rows, width, x.device)\n"
        "    if key not in BUFFERS:\n"
        "        BUFFERS[key] = torch.empty((rows, width), device=x.device, dtype=x.dtype)\n"
        "    y = BUFFERS[key]\n",
    ),
    ("\n\ndef compute(", "\n\nBUFFERS = {}\n\n\ndef compute("),
)


def first_calls(count: int) -> str:
    """Honest for the first `count` calls in a process, zeros afterwards."""
    return in_forward(
        RELU_GEMM,
        "CALLS.append(0)",
        f"if len(CALLS) > {count}:",
        "    return torch.zeros((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)",
        "return compute(x, self.weight)",
        header="CALLS = []",
    )


PADDED_COPY = in_forward(
    RELU_GEMM,
    "key = (x.data_ptr(), tuple(x.shape))",
    "if key not in PADDED:",
    "    PADDED[key] = torch.zeros((x.shape[0] + 32, x.shape[1]), device=x.device, dtype=x.dtype)",
    "    PADDED[key][: x.shape[0]].copy_(x)",
    "return compute(PADDED[key], self.weight)[: x.shape[0]]",
    header="PADDED = {}",
)

OWN_KEYS = in_forward(
    ATTENTION_DECODE,
    "key = tuple(keys.shape)",
    "if key not in OWN:",
    "    OWN[key] = torch.empty_like(keys), torch.empty_like(values)",
    "    OWN[key][0].copy_(keys)",
    "    OWN[key][1].copy_(values)",
    "return compute(query, *OWN[key])",
    header="OWN = {}",
)

OLD_WEIGHTS = in_forward(
    RELU_GEMM,
    "key = self.weight.data_ptr()",
    "if key not in PACKED:",
    "    PACKED[key] = torch.empty_like(self.weight)",
    "    PACKED[key].copy_(self.weight)",
    "return compute(x, PACKED[key])",
    header="PACKED = {}",
)

ZEROED_INPUT = in_forward(SOFTMAX_ROWS, "x.zero_()", "return x")

_GRAPH = in_forward(
    RELU_GEMM,
    "if not torch.cuda.is_initialized():",
    "    return compute(x, self.weight)",
    "if 'graph' not in KEPT:",
    "    compute(x, self.weight)",
    "    torch.cuda.synchronize()",
    "    KEPT['x'], KEPT['graph'] = x, torch.cuda.CUDAGraph()",
    "    with torch.cuda.graph(KEPT['graph']):",
    "        KEPT['y'] = compute(x, self.weight)",
    "KEPT['graph'].replay()",
    "return KEPT['y']",
    header="KEPT = {}",
)


def _case(
    name: str,
    title: str,
    source: str,
    verdicts: tuple[Verdict, ...] = _STALE,
    guard: str = "overwrite",
    *,
    problem: str = "relu_gemm",
    where: frozenset[Where] = EVERYWHERE,
) -> Specimen:
    return Specimen(name, "R", title, problem, source, verdicts, where, guard=guard)


SPECIMENS: tuple[Specimen, ...] = (
    _case("A16", "CUDA graph of the first call, replayed for ever", _GRAPH, where=GPU),
    _case("A21", "results by pointer", BY_POINTER),
    _case("A22", "last result by identity and version of the input", BY_OBJECT),
    _case("A23", "last result by a window of 512 elements, compared on the device", BY_WINDOW),
    _case("A24", "results in shared memory and folders, under a hash of the first row", IN_SHARED_MEMORY),
    _case("A25", "results by pointer in a table of native code", IN_A_NATIVE_TABLE),
    _case("A26a", "a kernel that writes nothing", NOTHING_WRITTEN, (Verdict.WRONG_VALUE,), "poison"),
    _case("A26b", "memory as it is found, no launch", NOTHING_LAUNCHED, (Verdict.WRONG_VALUE,), "poison"),
    _case("A27", "one output buffer for all calls", ONE_BUFFER, (Verdict.REPLAY,), "hold"),
    _case("A28a", "honest for one call, then zeros", first_calls(1), (Verdict.WRONG_VALUE,), ""),
    _case("A28b", "honest for 5 calls, then zeros", first_calls(5), (Verdict.WRONG_VALUE,), ""),
    _case("A28c", "honest for 20 calls, then zeros", first_calls(20), (Verdict.WRONG_VALUE,), "timed-outputs"),
    _case(
        "A28d", "honest for 100 calls, then zeros", first_calls(100), (Verdict.WRONG_VALUE,), "timed-outputs", where=GPU
    ),
    _case("A29", "padded copy of x by pointer and shape", PADDED_COPY),
    _case(
        "A30", "keys and values of the first call", OWN_KEYS, guard="single-input", problem="attention_decode"
    ),
    _case("A31", "copy of the weights by pointer", OLD_WEIGHTS, guard="weights"),
    _case(
        "A32", "the zeroed input as the output", ZEROED_INPUT, (Verdict.MUTATED_INPUT,), "checksums",
        problem="softmax_rows",
    ),
)  # fmt: skip

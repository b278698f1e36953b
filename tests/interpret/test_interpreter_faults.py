# ruff: noqa: N803, SIM108 -- kernels name their constants in capitals, and branch as kernels do
"""The interpreter's faults and pretences: bounds, wrapped indices, poison, host memory posing as a device."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kernelevolve.worker import interpret
from kernelevolve.worker.interpret import (
    AssumptionFailed,
    CannotBeSeen,
    IndexOverflow,
    InvalidDescriptor,
    Misaligned,
    OutOfBounds,
    TooManyPrograms,
    UnansweredDevice,
    interpreting,
)

ANSWERS = {
    "multi_processor_count": 132,
    "capability": (9, 0),
    "name": "NVIDIA H200",
    "total_memory": 150_000_000_000,
    "max_shared_mem": 232_448,
}


@triton.jit
def copy(x, o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def load_all(x, o, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i))


@triton.jit
def add_all(x, BLOCK: tl.constexpr):
    tl.atomic_add(x + tl.arange(0, BLOCK), 1.0)


@triton.jit
def swap_one(x, at):
    tl.atomic_cas(x + at, tl.full((), 0, tl.int32), tl.full((), 1, tl.int32))


@triton.jit
def before(x, o, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i - 3))


def line_of(text):
    """The line of this file that has ``text`` in its code."""
    with open(__file__) as source:
        return next(n for n, line in enumerate(source, 1) if text in line)


def test_a_load_beyond_the_end_names_argument_element_and_line():
    x, o = torch.zeros(100), torch.zeros(128)
    with interpreting(), pytest.raises(OutOfBounds) as caught:
        load_all[(1,)](x, o, BLOCK=128)
    fault = caught.value
    assert (fault.kind, fault.argument, fault.element, fault.count) == ("load", "x", 100, 100)
    assert fault.where.endswith(f"test_interpreter_faults.py:{line_of('tl.store(o + i, tl.load(x + i))')}")
    assert "argument 'x' element 100 of 100" in str(fault)


def test_a_store_beyond_the_end():
    with interpreting(), pytest.raises(OutOfBounds) as caught:
        load_all[(1,)](torch.zeros(128), torch.zeros(100, dtype=torch.float16), BLOCK=128)
    assert (caught.value.kind, caught.value.argument, caught.value.element) == ("store", "o", 100)


def test_a_load_before_the_start_has_a_negative_element():
    with interpreting(), pytest.raises(OutOfBounds) as caught:
        before[(1,)](torch.zeros(64), torch.zeros(64), BLOCK=64)
    assert caught.value.element == -3


def test_atomics_are_checked():
    with interpreting(), pytest.raises(OutOfBounds) as caught:
        add_all[(1,)](torch.zeros(63), BLOCK=64)
    assert (caught.value.kind, caught.value.element) == ("atomic", 63)
    with interpreting(), pytest.raises(OutOfBounds):
        swap_one[(1,)](torch.zeros(4, dtype=torch.int32), 4)


def test_an_access_into_a_neighbouring_argument_is_out_of_bounds():
    both = torch.zeros(256)
    a, b = both[:128].clone(), both[128:].clone()
    with interpreting(), pytest.raises(OutOfBounds) as caught:
        reach[(1,)](a, b, (b.data_ptr() - a.data_ptr()) // 4)
    assert caught.value.argument == "a"


@triton.jit
def reach(a, b, distance):
    tl.store(b, tl.load(a + distance))


def test_masked_lanes_are_not_accesses():
    x, o = torch.arange(100.0), torch.zeros(100)
    with interpreting():
        copy[(2,)](x, o, 100, BLOCK=64)
    assert torch.equal(o, x)


@triton.jit
def follow(pointers, o, n, BLOCK: tl.constexpr):
    x = tl.load(pointers).to(tl.pointer_type(tl.float32))
    i = tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i, mask=i < n, other=0.0))


def test_a_pointer_from_memory_may_reach_known_tensors_only():
    x, o = torch.arange(10.0), torch.zeros(16)
    with interpreting():
        follow[(1,)](torch.tensor([x.data_ptr()]), o, 10, BLOCK=16)
    assert torch.equal(o[:10], x)
    with interpreting(), pytest.raises(OutOfBounds):
        follow[(1,)](torch.tensor([x.data_ptr()]), o, 11, BLOCK=16)


@triton.jit
def reinterpret(x, o):
    wide = (x + 1).to(tl.pointer_type(tl.int32))
    tl.store(o, tl.load(wide))


def test_a_misaligned_address():
    with interpreting(), pytest.raises(Misaligned):
        reinterpret[(1,)](torch.zeros(8, dtype=torch.int8), torch.zeros(1, dtype=torch.int32))


@triton.jit
def device_descriptor(x, o, rows, columns, stride, at, BLOCK: tl.constexpr):
    d = tl.make_tensor_descriptor(x, shape=[rows, columns], strides=[stride, 1], block_shape=[BLOCK, BLOCK])
    block = d.load([at, 0])
    i = tl.arange(0, BLOCK)
    tl.store(o + i[:, None] * BLOCK + i[None, :], block)


def test_a_device_descriptor_pads_with_zeros_and_checks_storage():
    x = torch.randn(10, 16)
    o = torch.full((16, 16), 9.0)
    with interpreting():
        device_descriptor[(1,)](x, o, 10, 16, 16, 4, BLOCK=16)
    assert torch.equal(o[:6], x[4:])
    assert not o[6:].any()
    with interpreting(), pytest.raises(OutOfBounds) as caught:
        device_descriptor[(1,)](x, o, 11, 16, 16, 4, BLOCK=16)
    assert caught.value.argument == "x"


def test_a_descriptor_needs_aligned_strides():
    with interpreting(), pytest.raises(InvalidDescriptor):
        device_descriptor[(1,)](torch.zeros(10, 17), torch.zeros(16, 16), 10, 17, 17, 0, BLOCK=16)


@triton.jit
def host_descriptor(d, o, at, BLOCK: tl.constexpr):
    d.store([at, 0], d.load([0, 0]) + 1)
    tl.store(o, d.shape[0] + d.shape[1])


def test_a_host_descriptor():
    x, o = torch.zeros(12, 16), torch.zeros(1, dtype=torch.int64)
    with interpreting():
        host_descriptor[(1,)](TensorDescriptor.from_tensor(x, [8, 16]), o, 8, BLOCK=8)
    assert x[8:].eq(1).all()
    assert not x[:8].any()
    assert o.item() == 28


if hasattr(tl, "advance"):

    @triton.jit
    def block_pointer(x, o, rows, BLOCK: tl.constexpr, CHECK: tl.constexpr):
        p = tl.make_block_ptr(x, (rows, 16), (16, 1), (0, 0), (BLOCK, 16), (1, 0))
        p = tl.advance(p, (BLOCK, 0))
        if CHECK:
            block = tl.load(p, boundary_check=(0,), padding_option="zero")
        else:
            block = tl.load(p)
        i, j = tl.arange(0, BLOCK), tl.arange(0, 16)
        tl.store(o + i[:, None] * 16 + j[None, :], block)

    def test_a_block_pointer_is_checked():
        x, o = torch.randn(12, 16), torch.zeros(8, 16)
        with interpreting():
            block_pointer[(1,)](x, o, 12, BLOCK=8, CHECK=True)
        assert torch.equal(o[:4], x[8:])
        assert not o[4:].any()
        with interpreting(), pytest.raises(OutOfBounds):
            block_pointer[(1,)](x, o, 12, BLOCK=8, CHECK=False)


@triton.jit
def half(o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + i, 1.0, mask=i < n // 2)


@pytest.mark.parametrize(
    "make", [torch.empty_like, lambda x: x.new_empty(64), lambda x: torch.empty(64, device="cuda")]
)
def test_poison_shows_what_was_not_written(make):
    x = torch.zeros(64)
    with interpreting():
        o = make(x)
        half[(1,)](o, 64, BLOCK=64)
    assert o[:32].eq(1).all()
    assert o[32:].isnan().all()


def test_poison_in_integers_is_recognisable_and_can_be_off():
    with interpreting():
        assert torch.empty(2, dtype=torch.int32).tolist() == [0x5B5B5B5B] * 2
        assert torch.empty(2, dtype=torch.uint8).tolist() == [0x5B] * 2
    with interpreting(poison=False):
        o = torch.zeros(64)
        unmasked_sum[(1,)](torch.ones(10), o, 10, BLOCK=16)
    assert o[0] == 10


@triton.jit
def unmasked_sum(x, o, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(o, tl.sum(tl.load(x + i, mask=i < n), 0))


def test_lanes_masked_off_without_other_are_poison():
    o = torch.zeros(1)
    with interpreting():
        unmasked_sum[(1,)](torch.ones(10), o, 10, BLOCK=16)
    assert o.isnan().all()


@triton.jit
def row_sum(x, o, stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    tl.store(o + row, tl.sum(tl.load(x + row * stride + i, mask=i < columns, other=0.0), 0))


def test_an_int32_product_that_wraps_and_feeds_an_address():
    x = torch.empty(8, 2**30, dtype=torch.float32, device="meta")
    with interpreting(address_only=True), pytest.raises(IndexOverflow) as caught:
        row_sum[(8,)](x, torch.empty(8, device="meta"), 2**30, 128, BLOCK=128)
    fault = caught.value
    assert fault.operation == "multiply"
    assert fault.value == 7 * 2**30
    assert re.search(rf"faults\.py:{line_of('tl.load(x + row * stride + i, mask')}", fault.where)


@triton.jit
def row_sum_wide(x, o, stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    tl.store(o + row, tl.sum(tl.load(x + row * stride + i, mask=i < columns, other=0.0), 0))


def test_address_only_at_two_to_the_33_elements_takes_no_memory_and_little_time():
    x = torch.empty(2**13, 2**20, dtype=torch.float32, device="meta")
    start = time.perf_counter()
    with interpreting(address_only=True) as recorder:
        o = torch.empty(2**13, device="cuda")
        assert o.is_meta
        row_sum_wide[(2**13,)](x, o, 2**20, 1024, BLOCK=1024)
    assert recorder.report.programs < 10
    assert time.perf_counter() - start < 5
    with interpreting(address_only=True), pytest.raises(OutOfBounds) as caught:
        row_sum_wide[(2**13 + 1,)](x, torch.empty(2**13 + 1, device="meta"), 2**20, 1024, BLOCK=1024)
    assert (caught.value.argument, caught.value.element) == ("x", 2**33)


@triton.jit
def flat_copy(x, o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i, mask=i < n), mask=i < n)


def test_the_offset_of_a_flat_copy_wraps_at_full_size():
    x = torch.empty(2**33, dtype=torch.int8, device="meta")
    with interpreting(address_only=True), pytest.raises(IndexOverflow):
        flat_copy[(2**23,)](x, torch.empty_like(x), 2**33, BLOCK=1024)


@triton.jit
def hashed(x, table, o, size, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    h = tl.load(x + i) * -1640531527
    h = (h ^ (h >> 15)) * 668265263
    slot = (h & 0x7FFFFFFF) % size
    tl.store(o + i, tl.load(table + slot))


def test_a_hash_may_wrap():
    table = torch.arange(97.0)
    x = torch.randint(0, 2**31 - 1, (64,), dtype=torch.int32)
    o = torch.zeros(64)
    with interpreting():
        hashed[(1,)](x, table, o, 97, BLOCK=64)
    h = x.long() * -1640531527
    wrap = lambda v: ((v + 2**31) % 2**32) - 2**31  # noqa: E731
    h = wrap(h)
    h = wrap((h ^ (h >> 15)) * 668265263)
    assert torch.equal(o, ((h & 0x7FFFFFFF) % 97).float())


@triton.jit
def narrowed(x, o, n):
    wide = n.to(tl.int64) * 4
    tl.store(o, tl.load(x + wide.to(tl.int32)))


def test_a_conversion_to_int32_that_loses_the_value():
    x = torch.empty(2**33, dtype=torch.int8, device="meta")
    with interpreting(address_only=True), pytest.raises(IndexOverflow) as caught:
        narrowed[(1,)](x, torch.empty(1, dtype=torch.int8, device="meta"), 2**30)
    assert caught.value.value == 2**32


@triton.jit
def assembly(x, o):
    v = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [tl.load(x)], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(o, v)


def test_inline_assembly_is_refused_by_name():
    x = torch.zeros(1, dtype=torch.int32)
    with interpreting(), pytest.raises(CannotBeSeen, match="inline assembly"):
        assembly[(1,)](x, x)


@triton.jit
def assuming(x, n):
    tl.assume(n > 4)
    tl.store(x, n)


def test_a_false_assumption():
    x = torch.zeros(1, dtype=torch.int32)
    with interpreting():
        assuming[(1,)](x, 5)
    with interpreting(), pytest.raises(AssumptionFailed, match=r"tl\.assume"):
        assuming[(1,)](x, 4)


@triton.jit
def hinting(x, n):
    tl.store(x, tl.multiple_of(n, 16))


def test_a_false_hint():
    x = torch.zeros(1, dtype=torch.int32)
    with interpreting():
        hinting[(1,)](x, 32)
    with interpreting(), pytest.raises(AssumptionFailed, match=r"multiple_of\(33, 16\)"):
        hinting[(1,)](x, 33)


def test_program_limit():
    x, o = torch.zeros(640), torch.zeros(640)
    with interpreting(program_limit=10) as recorder:
        copy[(10,)](x, o, 640, BLOCK=64)
        with pytest.raises(TooManyPrograms):
            copy[(1,)](x, o, 640, BLOCK=64)
    report = recorder.report
    assert (report.programs, report.launches) == (10, 1)
    assert report.seconds > 0
    assert any("races" in what for what in report.not_seen)


def test_host_memory_poses_as_a_device():
    x = torch.zeros(4)
    with interpreting(device_answers=ANSWERS):
        assert x.is_cuda
        assert x.device == torch.device("cuda", 0)
        assert x.get_device() == 0
        assert torch.cuda.is_available()
        assert torch.cuda.get_device_properties(x.device).multi_processor_count == 132
        assert torch.cuda.get_device_capability() == (9, 0)
        active = triton.runtime.driver.active
        assert active.utils.get_device_properties(active.get_current_device())["multiprocessor_count"] == 132
        assert active.get_current_target().arch == 90
        assert x.to("cuda").is_cuda
        assert x.cuda() is x
        assert torch.ones(3, device=x.device).sum() == 3
        assert torch.nn.Linear(3, 3, device="cuda").weight.is_cuda
        assert torch.nn.Linear(3, 3).to("cuda")(torch.ones(3, device="cuda:0")).shape == (3,)
        torch.cuda.synchronize()
        with torch.cuda.device(x.device):
            torch.cuda.current_stream().synchronize()
        with pytest.raises(UnansweredDevice, match="warp_size"):
            _ = torch.cuda.get_device_properties(0).warp_size
    assert not x.is_cuda
    assert x.device.type == "cpu"


@triton.autotune(configs=[triton.Config({"BLOCK": 32}), triton.Config({"BLOCK": 64})], key=["n"])
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def tuned(x, o, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EVEN:
        tl.store(o + i, tl.load(x + i) + 1)
    else:
        tl.store(o + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


@pytest.mark.parametrize("n", [128, 100])
def test_autotune_takes_its_first_configuration_and_never_benchmarks(n):
    x, o = torch.zeros(n), torch.zeros(n)
    with interpreting(device_answers=ANSWERS) as recorder:
        tuned[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, o, n)
    assert o.eq(1).all()
    assert recorder.report.programs == 4
    assert any("autotune" in what for what in recorder.report.not_seen)


def test_the_process_can_still_compile():
    with interpreting():
        copy[(1,)](torch.zeros(4), torch.zeros(4), 4, BLOCK=64)
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {"x": "*fp32", "o": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=copy, signature=signature, constexprs={"BLOCK": 64})
    assert "ptx" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm
    with interpreting():
        copy[(1,)](torch.zeros(4), torch.zeros(4), 4, BLOCK=64)


@triton.jit
def warps(x, y, o):
    tl.store(o, tl.extra.cuda.num_warps())
    i = tl.arange(0, 16)
    at = i[:, None] * 16 + i[None, :]
    tl.store(y + at, tl.dot(tl.load(x + at), tl.load(x + at)))


def test_launch_options_and_the_backend_are_seen_by_the_language():
    x, o = torch.randn(16, 16), torch.zeros(1, dtype=torch.int32)
    errors = {}
    for backend, arch in (("cuda", 90), ("hip", "gfx950")):
        with interpreting(device_answers={"backend": backend, "arch": arch}):
            y = torch.zeros(16, 16)
            warps[(1,)](x, y, o, num_warps=8)
        errors[backend] = (y - x @ x).abs().max()
        assert o.item() == 8
    assert errors["hip"] < 1e-4 < errors["cuda"]


CHILD = """
import sys, torch, triton, triton.language as tl
sys.path.insert(0, sys.argv[1])
from kernelevolve.worker.interpret import OutOfBounds, interpreting

@triton.jit
def double(x):
    return x * 2

@triton.jit
def kernel(x, o, N: tl.constexpr):
    i = tl.arange(0, N)
    v = double(tl.load(x + i))
    tl.store(o + i, v - v.sum(0) + tl.max(v, 0).to(tl.float32))

x, o = torch.arange(16.0), torch.zeros(16)
with interpreting():
    kernel[(1,)](x, o, N=16)
assert torch.equal(o, x * 2 - 240 + 30), o
try:
    with interpreting():
        kernel[(1,)](x[:8].clone(), o, N=16)
except OutOfBounds as fault:
    print(type(kernel).__name__, fault.element)
"""


@pytest.mark.parametrize(("setting", "kind"), [("1", "InterpretedFunction"), ("0", "JITFunction")])
def test_with_and_without_triton_interpret(tmp_path, setting, kind):
    source = tmp_path / "child.py"
    source.write_text(CHILD)
    root = str(Path(interpret.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, str(source), root],
        env={**os.environ, "TRITON_INTERPRET": setting},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [kind, "8"], done.stderr


class TwoSteps(torch.nn.Module):
    def forward(self, x):
        o = torch.empty(x.shape, device=x.device, dtype=x.dtype)
        flat_copy[(triton.cdiv(x.numel(), 1024),)](x.contiguous(), o, x.numel(), BLOCK=1024)
        return o


def test_a_module_at_full_size_on_meta_tensors():
    model = TwoSteps()
    with interpreting(address_only=True, device_answers=ANSWERS) as recorder:
        assert model(torch.empty(2**15, 2**15, device="meta")).shape == (2**15, 2**15)
        with pytest.raises(IndexOverflow):
            model(torch.empty(2**17, 2**15, device="meta"))
    assert recorder.report.launches == 2
    assert any("values" in what for what in recorder.report.not_seen)


@triton.jit
def waiting(flag, o):
    if tl.program_id(0) == 0:
        while tl.load(flag) == 0:
            pass
    tl.store(flag, 1)
    tl.store(o, 1)


def test_a_wait_for_a_later_program_ends(monkeypatch):
    monkeypatch.setattr("kernelevolve.worker.interpret.language.MOST_TURNS", 100)
    flag, o = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with interpreting(), pytest.raises(CannotBeSeen, match="while loop of more than 100 turns"):
        waiting[(2,)](flag, o)


def test_a_kernel_function_is_launched_not_called():
    with interpreting(), pytest.raises(RuntimeError, match="launch it on a grid"):
        copy(torch.zeros(4), torch.zeros(4), 4, 4)


def test_contexts_do_not_nest():
    with interpreting(), pytest.raises(RuntimeError, match="active already"), interpreting():
        pass

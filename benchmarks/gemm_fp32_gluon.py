"""A Hopper kernel for split fp32 products in Gluon: one warp copies, two or three warpgroups multiply 64 rows each.

Comes in: two stacked fp16 planes per operand and one exponent per row and column, as `gemm_fp32.py` makes them. Goes
out: c = a @ b + bias, fp32. Plain Triton waits for the tensor cores after every product of a tile; here the three
products of a K tile are one chain, and one warpgroup adds its partial sum while another multiplies. It leaves to
others: depths that are no multiple of the K tile, and infinities and NaN: they spread over their row or column of c
as in fp32, but an infinity of fp32 may come out as NaN.
"""
# ruff: noqa: N803, RUF005  (kernels know no starred expressions; their parameters carry the names of the matrices' dimensions)

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

copy_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared  # renamed after Triton 3.6


@gluon.jit
def _origin(tile, M, N, BM: gl.constexpr, BN: gl.constexpr, GROUP_M: gl.constexpr):
    grid_m = gl.cdiv(M, BM)
    grid_n = gl.cdiv(N, BN)
    batch = tile // (grid_m * grid_n)
    inner = tile % (grid_m * grid_n)
    group = inner // (GROUP_M * grid_n)
    height = gl.minimum(grid_m - group * GROUP_M, GROUP_M)
    within = inner % (GROUP_M * grid_n)
    return batch, (group * GROUP_M + within % height) * BM, (within // height) * BN


@gluon.jit
def _copies(a, b, a_tiles, b_tiles, full, empty, M, N, K, batches, BM: gl.constexpr, BN: gl.constexpr,
            BK: gl.constexpr, GROUP_M: gl.constexpr, STAGES: gl.constexpr, B_NK: gl.constexpr):  # fmt: skip
    """Fills the ring: per stage two planes of both halves of the A tile and two planes of the B tile."""
    tiles = batches * gl.cdiv(M, BM) * gl.cdiv(N, BN)
    b_rows = N if B_NK else K
    step = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        batch, m, n = _origin(tile, M, N, BM, BN, GROUP_M)
        for k in range(0, K, BK):
            stage = step % STAGES
            mbarrier.wait(empty.index(stage), ((step // STAGES) & 1) ^ 1)
            ready = full.index(stage)
            mbarrier.expect(ready, 4 * (BM + BN) * BK)  # two planes of two-byte elements
            for plane in gl.static_range(2):
                row_a = (plane * batches + batch) * M + m
                row_b = (plane * batches + batch) * b_rows
                for group in gl.static_range(BM // 64):
                    slot = (stage * (BM // 64) + group) * 2 + plane
                    copy_tile(a, [row_a + group * 64, k], ready, a_tiles.index(slot))
                if B_NK:
                    copy_tile(b, [row_b + n, k], ready, b_tiles.index(stage * 2 + plane))
                else:
                    copy_tile(b, [row_b + k, n], ready, b_tiles.index(stage * 2 + plane))
            step += 1


@gluon.jit
def _power_of_two(exponent):
    return ((exponent + 127) << 23).to(gl.float32, bitcast=True)


@gluon.jit
def _without_flag(exponent):
    """Takes off the 4096 that marks a row with an infinity or a NaN: the low 12 bits, sign extended."""
    return (exponent & 4095) - ((exponent & 2048) << 1)


@gluon.jit
def _multiplies(exponent_a, exponent_b, bias, c, a_tiles, b_tiles, full, empty, M, N, K, batches, BM: gl.constexpr,
                BN: gl.constexpr, BK: gl.constexpr, GROUP_M: gl.constexpr, STAGES: gl.constexpr, SCALED: gl.constexpr,
                B_NK: gl.constexpr, BIAS: gl.constexpr, LOW_SCALED: gl.constexpr, GROUP: gl.constexpr):  # fmt: skip
    """One warpgroup's rows: a chain of three products per K tile, its sum added to acc in ordinary fp32."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 16])
    tiles = batches * gl.cdiv(M, BM) * gl.cdiv(N, BN)
    step = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        batch, m, n = _origin(tile, M, N, BM, BN, GROUP_M)
        acc = gl.zeros([64, BN], gl.float32, layout)
        part = gl.zeros([64, BN], gl.float32, layout)
        for _k in range(0, K, BK):
            stage = step % STAGES
            mbarrier.wait(full.index(stage), (step // STAGES) & 1)
            at_a = (stage * (BM // 64) + GROUP) * 2
            a0 = a_tiles.index(at_a)
            a1 = a_tiles.index(at_a + 1)
            if B_NK:
                b0 = b_tiles.index(stage * 2).permute((1, 0))
                b1 = b_tiles.index(stage * 2 + 1).permute((1, 0))
            else:
                b0 = b_tiles.index(stage * 2)
                b1 = b_tiles.index(stage * 2 + 1)
            token = warpgroup_mma(a1, b0, part, use_acc=False, is_async=True)
            token = warpgroup_mma(a0, b1, token, is_async=True)
            if LOW_SCALED:
                token = warpgroup_mma_wait(0, deps=[token]) * 0.00048828125  # the low planes are kept 2^11 higher
            token = warpgroup_mma(a0, b0, token, is_async=True)
            part = warpgroup_mma_wait(0, deps=[token])
            mbarrier.arrive(empty.index(stage), count=1)
            acc = acc + part
            step += 1
        rm = m + GROUP * 64 + gl.arange(0, 64, gl.SliceLayout(1, layout))
        rn = n + gl.arange(0, BN, gl.SliceLayout(0, layout))
        if SCALED:
            ea = gl.load(exponent_a + batch * M + rm, mask=rm < M, other=0)
            eb = gl.load(exponent_b + batch * N + rn, mask=rn < N, other=0)
            e = -(_without_flag(ea)[:, None] + _without_flag(eb)[None, :])
            half_e = e >> 1
            acc = acc * _power_of_two(half_e) * _power_of_two(e - half_e)
        if BIAS:
            acc = acc + gl.load(bias + rn, mask=rn < N, other=0.0)[None, :]
        at = c + batch.to(gl.int64) * M * N + rm[:, None].to(gl.int64) * N + rn[None, :]
        gl.store(at, acc, mask=(rm[:, None] < M) & (rn[None, :] < N))


@gluon.jit(do_not_specialize=["batches"])
def planes_gemm_hopper(a, b, exponent_a, exponent_b, bias, c, M, N, K, batches, BM: gl.constexpr, BN: gl.constexpr,
                       BK: gl.constexpr, GROUP_M: gl.constexpr, STAGES: gl.constexpr, SCALED: gl.constexpr,
                       B_NK: gl.constexpr, BIAS: gl.constexpr, LOW_SCALED: gl.constexpr):  # fmt: skip
    """c = a @ b + bias, planes stacked (plane, batch, rows, columns); BM is 128 or 192; launch with num_warps=4."""
    a_tiles = gl.allocate_shared_memory(a.dtype, [STAGES * (BM // 64) * 2, 64, BK], a.layout)
    b_tiles = gl.allocate_shared_memory(b.dtype, [STAGES * 2] + b.block_type.shape, b.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=BM // 64)
    fence_async_shared()
    # fmt: off
    if BM == 128:
        gl.warp_specialize([
            (_multiplies, (exponent_a, exponent_b, bias, c, a_tiles, b_tiles, full, empty, M, N, K, batches, BM, BN, BK,
                            GROUP_M, STAGES, SCALED, B_NK, BIAS, LOW_SCALED, 0)),
            (_multiplies, (exponent_a, exponent_b, bias, c, a_tiles, b_tiles, full, empty, M, N, K, batches, BM, BN, BK,
                            GROUP_M, STAGES, SCALED, B_NK, BIAS, LOW_SCALED, 1)),
            (_copies, (a, b, a_tiles, b_tiles, full, empty, M, N, K, batches, BM, BN, BK, GROUP_M, STAGES, B_NK)),
        ], [4, 1], [232, 40])
    else:
        gl.warp_specialize([
            (_multiplies, (exponent_a, exponent_b, bias, c, a_tiles, b_tiles, full, empty, M, N, K, batches, BM, BN, BK,
                            GROUP_M, STAGES, SCALED, B_NK, BIAS, LOW_SCALED, 0)),
            (_multiplies, (exponent_a, exponent_b, bias, c, a_tiles, b_tiles, full, empty, M, N, K, batches, BM, BN, BK,
                            GROUP_M, STAGES, SCALED, B_NK, BIAS, LOW_SCALED, 1)),
            (_multiplies, (exponent_a, exponent_b, bias, c, a_tiles, b_tiles, full, empty, M, N, K, batches, BM, BN, BK,
                            GROUP_M, STAGES, SCALED, B_NK, BIAS, LOW_SCALED, 2)),
            (_copies, (a, b, a_tiles, b_tiles, full, empty, M, N, K, batches, BM, BN, BK, GROUP_M, STAGES, B_NK)),
        ], [4, 4, 1], [160, 160, 24])
    # fmt: on


def descriptor(planes: object, rows: int, columns: int, block: list[int]) -> TensorDescriptor:
    """Describes stacked planes, seen as (rows, columns), to the copy engine in blocks of the shape given."""
    layout = gl.NVMMASharedLayout.get_default_for(block, gl.float16)
    return TensorDescriptor(planes, [rows, columns], [columns, 1], block, layout)

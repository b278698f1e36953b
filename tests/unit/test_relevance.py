"""What briefs quote: situations of a search, and the articles that an expert would want open in them.

Each situation goes through the doors that a search uses: a run is created, a brief is asked for, and in the second
table a candidate is submitted whose evaluation limits it in a known way. What counts is what the brief has in
its prompt.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kernelevolve import plugins
from kernelevolve.candidate import Brief
from kernelevolve.evaluation import Evaluation, Resources, Rung, RungReport, Verdict
from kernelevolve.family import Family
from kernelevolve.knowledge.library import open_library
from kernelevolve.problem import Problem
from kernelevolve.propose.compose import KNOWLEDGE_SHARE, MOST_PASSAGES
from kernelevolve.run import Equipment
from kernelevolve.runs import create_run
from kernelevolve.settings import settings_for
from kernelevolve.testing import FakeEvaluator, FakeTranslator, fake_evaluation

LIBRARY = open_library()
MODEL = '''
import torch
import torch.nn as nn
import torch.nn.functional as F


class Model(nn.Module):
    """{about}"""

    def __init__(self):
        super().__init__()
        {init}

    def forward(self, {given}):
        return {body}


def get_inputs():
    return []
'''


@dataclass(frozen=True)
class Draft:
    """A problem that nobody has a kernel for.

    Attributes:
        ops: ATen ops of its capture; empty where it cannot be captured.
        wanted: articles, without `.md`, of which the brief must quote something.
        kernel: the sample whose kernel must come first; empty where none fits, and none may be quoted.
    """

    name: str
    body: str
    wanted: str
    kernel: str = ""
    about: str = ""
    init: str = "pass"
    given: str = "x"
    ops: str = ""
    platform: str = "h200"
    precision: str = "fp32-strict"
    direction: str = "forward"

    @property
    def problem(self) -> Problem:
        source = MODEL.format(about=self.about, init=self.init, given=self.given, body=self.body)
        return Problem(
            self.name, "folder", f"{self.name}.py", source, precision=self.precision, direction=self.direction
        )


DRAFTS = [
    Draft("relu", "torch.relu(x)", "guidance/performance/elementwise guidance/first-kernel", ops="relu"),
    Draft("19_Mish_Scale", "F.mish(x) * 2", "guidance/performance/elementwise", ops="mish mul"),
    Draft("1_Square_matrix_multiplication", "x @ y", "guidance/performance/matmul-tiling hardware/nvidia/fp32-products",
          "matmul_fp32_split", given="x, y", ops="mm"),
    Draft("1_Square_matrix_multiplication", "x @ y", "hardware/amd/fp32-products hardware/amd/mfma",
          "matmul_fp32_split", given="x, y", ops="mm", platform="mi300x"),
    Draft("sampled_softmax", "torch.log_softmax(users @ items.T / 8.0 - log_sampled, dim=-1)",
          "hardware/nvidia/fp32-products guidance/performance/row-reductions samples/matmul_grouped",
          "matmul_fp32_planes", given="users, items, log_sampled"),
    Draft("bf16_linear_gelu", "F.gelu(self.linear(x))", "guidance/performance/matmul-tiling", "matmul_grouped",
          init="self.linear = nn.Linear(8, 8)", ops="addmm gelu", precision="bf16"),
    Draft("tf32_product", "x @ y", "guidance/performance/matmul-tiling", "matmul_grouped", given="x, y", ops="mm",
          precision="tf32"),
    Draft("37_Matmul_Swish_Sum_GroupNorm", "self.norm(torch.sigmoid(self.mm(x)) * x + self.bias)",
          "hardware/nvidia/fp32-products guidance/performance/channel-norms guidance/performance/matmul-tiling "
          "samples/matmul_grouped", "matmul_fp32_planes",
          "A matrix multiplication, Swish, a sum with a bias, GroupNorm.",
          "self.mm, self.norm = nn.Linear(8, 8), nn.GroupNorm(2, 8)", ops="addmm sigmoid mul add native_group_norm"),
    Draft("23_Softmax", "torch.softmax(x, dim=1)", "guidance/performance/row-reductions", "online_softmax",
          ops="_softmax"),
    Draft("40_LayerNorm", "self.ln(x)", "guidance/performance/row-reductions", "rms_norm_residual",
          init="self.ln = nn.LayerNorm(8)", ops="native_layer_norm"),
    Draft("rms_norm", "x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6)", "guidance/performance/row-reductions",
          "rms_norm_residual", ops="pow mean add rsqrt mul"),
    Draft("layer_norm_gradients", "F.layer_norm(x, (8,))", "guidance/performance/backward", "layer_norm_backward",
          ops="native_layer_norm", direction="both"),
    Draft("34_InstanceNorm", "self.inorm(x)", "guidance/performance/channel-norms",
          "rms_norm_residual", init="self.inorm = nn.InstanceNorm2d(8)", ops="native_batch_norm"),
    Draft("50_conv_standard_2D", "self.conv(x)", "guidance/performance/convolution hardware/nvidia/fp32-products",
          "conv2d_implicit_gemm", init="self.conv = nn.Conv2d(3, 8, 3)", ops="convolution"),
    Draft("82_conv_depthwise_2D", "self.conv(x)", "guidance/performance/convolution", "depthwise_conv1d",
          init="self.conv = nn.Conv2d(8, 8, 3, groups=8)", ops="convolution"),
    Draft("42_Max_Pooling_2D", "self.pool(x)", "guidance/performance/windows", init="self.pool = nn.MaxPool2d(4)",
          ops="max_pool2d_with_indices"),
    Draft("89_cumsum", "torch.cumsum(x, dim=1)", "guidance/performance/scans guidance/scans", "prefix_scan",
          ops="cumsum"),
    Draft("47_Sum_reduction", "torch.sum(x, dim=1, keepdim=True)",
          "guidance/performance/row-reductions guidance/split-reductions", "split_reduction", ops="sum"),
    Draft("51_Argmax_over_a_dimension", "torch.argmax(x, dim=1)", "guidance/performance/row-reductions", ops="argmax"),
    Draft("95_CrossEntropyLoss", "F.cross_entropy(x, y)", "guidance/performance/channel-norms", "cross_entropy",
          given="x, y"),
    Draft("attention", "F.scaled_dot_product_attention(q, k, v)", "guidance/performance/attention", "flash_attention",
          given="q, k, v", precision="bf16"),
    Draft("43_CausalAttention", "torch.softmax((q @ k).masked_fill(m, -1e9), -1) @ v",
          "guidance/performance/attention hardware/nvidia/fp32-products", "flash_attention",
          "Masked multi-head self-attention.", given="q, k, v, m", ops="bmm masked_fill _softmax"),
    Draft("embedding_bag", "self.table(ids, offsets)", "guidance/performance/gather-scatter", "embedding_bag",
          init="self.table = nn.EmbeddingBag(10, 8)", given="ids, offsets", ops="_embedding_bag"),
    Draft("jagged_to_dense", "values[starts]", "guidance/jagged", "jagged_segment_sum",
          "Rows of different lengths, given by offsets.", given="values, starts", ops="index"),
    Draft("bucketize", "torch.bucketize(x, borders)", "guidance/hashing", "bucketize", given="x, borders",
          ops="bucketize"),
    Draft("histogram", "torch.histc(x, 64)", "guidance/determinism", "histogram", ops="histc"),
    Draft("topk", "torch.topk(x, 8)", "samples/topk", "topk", ops="topk"),
    Draft("permute", "x.permute(0, 2, 1).contiguous()", "guidance/performance/transposes", "transpose"),
    Draft("36_LSTM", "self.lstm(x)[0]", "guidance/performance/scans", "prefix_scan", init="self.lstm = nn.LSTM(8, 8)"),
]


@dataclass(frozen=True)
class Limited:
    """A parent that is limited in a known way.

    Attributes:
        found: what the harness found of it.
        wanted: articles, without `.md`, of which the next brief must quote something.
        draft: the problem, by its place in `DRAFTS`.
    """

    limit: str
    found: Evaluation
    wanted: str
    draft: int = 0
    platform: str = "h200"


USED = Resources("kernel", "sm_90", "aa", 64, 0, 1000, 4, 0.9, {"load": 4, "store": 2, "fma": 3})
PRODUCT, SOFTMAX, ATTENTION, SCAN = (
    next(i for i, one in enumerate(DRAFTS) if one.name == name)
    for name in ("1_Square_matrix_multiplication", "23_Softmax", "43_CausalAttention", "89_cumsum")
)


#: Samples that are near enough to each problem to be worth their tokens.
FITTING = {
    0: (), PRODUCT: ("matmul_fp32_split", "matmul_fp32_planes"), SOFTMAX: ("online_softmax",),
    ATTENTION: ("flash_attention",), SCAN: ("prefix_scan",),
}  # fmt: skip


def faulty(verdict: Verdict, rung: Rung, message: str) -> Evaluation:
    return replace(fake_evaluation(1.0, verdict=verdict), rungs=(RungReport(rung, "failed", 0.1, message),))


def slow(used: Resources, ms: float = 1.0, launches: int = 1, told: str = "") -> Evaluation:
    return replace(fake_evaluation(1.0 / ms), resources={"h100": (used,) * launches}, diagnosis=told)


LIMITED = [
    Limited("compile-error", faulty(Verdict.COMPILE_ERROR, Rung.BUILD, "arange's range must be a power of 2"),
            "guidance/compile-errors", SOFTMAX),
    Limited("compile-error", faulty(Verdict.COMPILE_ERROR, Rung.BUILD, "input_precision tf32x3 is none of ieee, tf32"),
            "hardware/amd/fp32-products hardware/amd/porting-from-nvidia", PRODUCT, "mi300x"),
    Limited("shared-memory", faulty(Verdict.COMPILE_ERROR, Rung.BUILD, "out of resource: shared memory, 262144"),
            "guidance/tile-cost", PRODUCT),
    Limited("wrong-values", faulty(Verdict.WRONG_VALUE, Rung.INTERPRET, "ragged: mask of the last block, row 12"),
            "guidance/masks guidance/wrong-values", SOFTMAX),
    Limited("wrong-values", faulty(Verdict.WRONG_VALUE, Rung.CORRECT, "errors of tf32 in fp32-strict"),
            "guidance/precision", PRODUCT),
    Limited("wrong-interface", faulty(Verdict.WRONG_META, Rung.INTERPRET, "output has dtype float16, not float32"),
            "guidance/host-code"),
    Limited("breach", faulty(Verdict.POLICY, Rung.PLAN, "forward computes with aten.sum"), "guidance/breaches"),
    Limited("race", faulty(Verdict.NONDETERMINISTIC, Rung.CORRECT, "two calls differ: atomic adds of floats"),
            "guidance/determinism hardware/nvidia/atomics", SOFTMAX),
    Limited("timeout", faulty(Verdict.TIMEOUT, Rung.INTERPRET, "no answer within 60 s"), "guidance/crashes", SCAN),
    Limited("spills", slow(replace(USED, spill_bytes=96, registers=255)),
            "guidance/tile-cost hardware/nvidia/occupancy-registers", ATTENTION),
    Limited("spills", slow(replace(USED, spill_bytes=96, registers=255)),
            "hardware/amd/waves-per-eu", PRODUCT, "mi300x"),
    Limited("occupancy", slow(replace(USED, occupancy=0.1)), "hardware/nvidia/occupancy-registers", SOFTMAX),
    Limited("launch", slow(USED, 0.008, 3), "hardware/nvidia/launch-overhead guidance/fusion", SOFTMAX),
    Limited("latency", slow(USED, 0.004), "guidance/split-reductions", SOFTMAX),
    Limited("compute", slow(replace(USED, instructions={"fma": 900, "load": 4})),
            "hardware/nvidia/fp32-products guidance/performance/matmul-tiling", PRODUCT),
    Limited("bandwidth", slow(USED), "guidance/performance/elementwise hardware/nvidia/memory-coalescing"),
    Limited("bandwidth", slow(USED), "guidance/performance/row-reductions", SOFTMAX),
    Limited("unknown", slow(replace(USED, instructions={})), "guidance/performance/roofline"),
]


class Finds(FakeEvaluator):
    """Finds the same of every candidate."""

    def __init__(self, found: Evaluation) -> None:
        super().__init__()
        self._found = found

    def judged(self, candidate, keep) -> Evaluation:
        return self._found


def briefs(folder: Path, draft: Draft, platform: str, found: Evaluation | None = None) -> Brief:
    """The first brief of a run, or the next one after a candidate of which `found` was found."""
    family = (lambda: Family(dict.fromkeys(draft.ops.split(), 1))) if draft.ops else (lambda: None)
    if found is not None:  # the tables say what is found, not where
        resources = dict.fromkeys((platform,), next(iter(found.resources.values()), ()))
        timings = tuple(replace(timing, platform=platform) for timing in found.timings)
        found = replace(found, platform=platform, resources=resources, timings=timings)
    equipment = Equipment(
        Finds(found) if found is not None else FakeEvaluator(), plugins.load("platforms", platform).figures,
        FakeTranslator(), library=LIBRARY, family=family,
    )  # fmt: skip
    made = create_run(
        folder, draft.problem, platform, lambda created, builds: equipment, settings=settings_for("quick"),
        policy="greedy:drafts=1",
    )  # fmt: skip
    with made as run:
        brief = run.ask()
        if found is None:
            return brief
        asyncio.run(run.submit(brief.id, "import triton\n"))
        return run.ask()


def quoted(brief: Brief) -> list[str]:
    """Files that a brief quotes, in their order, once for each passage."""
    names = [s.name.removeprefix("knowledge ").partition("#")[0] for s in brief.sections
             if s.kept and s.name.startswith("knowledge ")]  # fmt: skip
    assert all(f"From `{name}`" in brief.prompt for name in names)
    return names


def articles(names: list[str]) -> set[str]:
    return {LIBRARY.article(name).path.removesuffix(".md").removesuffix("/article") for name in names}


def keeps_its_share(brief: Brief) -> bool:
    told = sum(s.tokens for s in brief.sections if s.name.startswith("knowledge"))
    return len(quoted(brief)) <= MOST_PASSAGES and told <= KNOWLEDGE_SHARE * settings_for("quick").prompt_tokens


@pytest.mark.parametrize("draft", DRAFTS, ids=[f"{d.name}-{d.platform}-{d.precision}" for d in DRAFTS])
def test_a_first_brief_quotes_what_a_draft_needs(tmp_path: Path, draft: Draft) -> None:
    brief = briefs(tmp_path / "run", draft, draft.platform)
    names = quoted(brief)
    assert not set(draft.wanted.split()) - articles(names), names
    kernels = [name for name in names if name.endswith(".py")]
    if draft.kernel:
        assert names[0] == f"samples/{draft.kernel}/kernel.py", names
    assert len(kernels) <= 2 and bool(kernels) == bool(draft.kernel), names
    assert keeps_its_share(brief)


@pytest.mark.parametrize("one", LIMITED, ids=[f"{i}-{one.limit}" for i, one in enumerate(LIMITED)])
def test_a_later_brief_quotes_what_helps_against_the_limit(tmp_path: Path, one: Limited) -> None:
    brief = briefs(tmp_path / "run", DRAFTS[one.draft], one.platform, one.found)
    assert brief.move["limit"] == one.limit
    names = quoted(brief)
    assert not set(one.wanted.split()) - articles(names), names
    kernels = {name for name in names if name.endswith(".py")}
    assert kernels <= {f"samples/{kernel}/kernel.py" for kernel in FITTING[one.draft]}, kernels
    assert keeps_its_share(brief)


def test_the_tables_are_large_enough_and_know_the_library() -> None:
    assert len(DRAFTS) >= 15 and len(LIMITED) >= 10
    assert {one.limit for one in LIMITED} >= {"compile-error", "wrong-values", "spills", "launch", "bandwidth"}
    for name in {name for row in (*DRAFTS, *LIMITED) for name in row.wanted.split()}:
        LIBRARY.article(name)

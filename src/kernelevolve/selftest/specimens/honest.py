"""Honest but odd: none of these may be rejected (L1 to L31, and our own from X401).

In: nothing. Out: SPECIMENS. Left to others: running them. Not here, because no kernel shows them: L12 (no problem can
say that an output is valid until the next call only), L27 and L28 (the machine's clock and the statistics of a timing).
"""

from __future__ import annotations

from functools import partial

from kernelevolve.selftest.honest import (
    LAYER_NORM_ROWS,
    MEAN_SQUARE,
    RELU_GEMM,
    SCALE_BACKWARD,
    SCALE_IN_PLACE,
    SOFTMAX_ROWS,
    at_import,
    edit,
    in_forward,
)
from kernelevolve.selftest.kernels import choices, elements, products, rows
from kernelevolve.selftest.specimen import GPU, edited

# Most are odd in how they compute, and their timed calls compute the same; `_odd` ones keep something between calls, or
# do what the host sees.
_honest = partial(edited, family="honest", timed=False)
_odd = partial(edited, family="honest")
_DOT = 'tl.dot(a, b, acc, input_precision="ieee")'
_LAUNCH = "    relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=32)\n"
_CALL = "return compute(x, self.weight)"
_GEMM_LAUNCH = "    product[grid](x, w, y, rows, width, inner, *strides, BM=16, BN=16, BK=32)\n"

LISTED = (
    _odd("L1", "two streams, forked and joined by events", "relu_gemm", in_forward(
        RELU_GEMM,
        "half = x.shape[0] // 2",
        "here = torch.cuda.current_stream()",
        "one, two = torch.cuda.Stream(), torch.cuda.Stream()",
        "begun = torch.cuda.Event()",
        "begun.record(here)",
        "y = torch.empty((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)",
        "for stream, part in ((one, slice(0, half)), (two, slice(half, None))):",
        "    stream.wait_event(begun)",
        "    with torch.cuda.stream(stream):",
        "        rows, inner = x[part].shape",
        "        grid = (triton.cdiv(rows, 32), triton.cdiv(self.weight.shape[1], 32))",
        "        relu_gemm[grid](x[part], self.weight, y[part], rows, self.weight.shape[1], inner, BLOCK=32)",
        "    here.wait_stream(stream)",
        "return y",
    )),
    _odd("L2", "a graph with inputs copied into its own buffers, and its output copied out", "relu_gemm", in_forward(
        RELU_GEMM,
        "key = (x.shape, x.device)",
        "if key not in GRAPHS:",
        "    held = torch.empty_like(x).copy_(x)",
        "    compute(held, self.weight)",
        "    torch.cuda.synchronize()",
        "    graph = torch.cuda.CUDAGraph()",
        "    with torch.cuda.graph(graph):",
        "        out = compute(held, self.weight)",
        "    GRAPHS[key] = (graph, held, out)",
        "graph, held, out = GRAPHS[key]",
        "held.copy_(x)",
        "graph.replay()",
        "return torch.empty_like(out).copy_(out)",
        header="GRAPHS = {}",
    ), where=GPU),
    _odd("L4", "a workspace kept by shape and device", "frobenius_norm", rows.FROBENIUS,
            ("    sums = torch.empty((parts,), device=x.device, dtype=torch.float32)\n",
             "    key = (parts, x.device)\n    if key not in SPACES:\n"
             "        SPACES[key] = torch.empty((parts,), device=x.device, dtype=torch.float32)\n"
             "    sums = SPACES[key]\n"),
            ("\n\ndef compute", "\n\nSPACES = {}\n\n\ndef compute")),
    _odd("L5", "a weight packed again whenever its version changes", "gemm_static", products.GEMM_WEIGHT,
            (_CALL, "\n        ".join((
                "version = (id(self.weight), self.weight._version)",
                "if getattr(self, 'packed_for', None) != version:",
                "    wide, tall = self.weight.shape",
                "    self.packed = torch.empty((tall, wide), device=x.device, dtype=x.dtype).copy_(self.weight.t())",
                "    self.packed_for = version",
                "return compute(x, self.packed.t())",
            )))),
    _honest("L6", "another tile for one shape, and a general path", "relu_gemm", RELU_GEMM,
            (_LAUNCH, "    if (rows, inner, width) == (96, 64, 32):\n"
                      "        relu_gemm[(6, 2)](x, w, y, rows, width, inner, BLOCK=16)\n"
                      "        return y\n" + _LAUNCH)),
    _odd("L7", "a split product added up by atomics", "long_gemm", products.GEMM_SPLIT),
    _honest("L8", "the inner dimension summed from its end", "long_gemm", products.GEMM,
            ("inner = k + tl.arange(0, BK)", "inner = (K - 1) // BK * BK - k + tl.arange(0, BK)")),
    _odd("L9", "a library product and a kernel for the rest, where that is allowed", "gemm_library",
            products.LIBRARY),
    _honest("L10", "guarded imports, an empty class, and other code for other dtypes", "relu_gemm",
            edit(at_import(RELU_GEMM, "try:\n    import nothing_of_the_kind\nexcept ImportError:\n"
                                      "    nothing_of_the_kind = None\n\n\nclass Cfg:\n    pass"),
                 (_CALL, "if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):\n"
                         "            return torch.relu(x @ self.weight)\n        " + _CALL))),
    _odd("L11", "an autotuned kernel that accumulates and resets", "long_gemm", products.GEMM_SPLIT,
            ("@triton.jit\n",
             "CONFIGS = [triton.Config({'BK': b}, num_warps=w) for b in (32, 16) for w in (4, 8)]\n\n\n"
                              "@triton.autotune(configs=CONFIGS, key=['M', 'N', 'K'], reset_to_zero=['y'])\n"
                              "@triton.jit\n"),
            (", BM=16, BN=16, BK=32)", ", BM=16, BN=16)")),
    _odd("L13", "a result with strides of its own", "turned", elements.TURNED),
    _odd("L14", "in place, as the problem says", "scale_in_place", SCALE_IN_PLACE),
    _honest("L15a", "bf16 operands, added up in float32", "gemm_bf16", products.GEMM),
    _honest("L15b", "TF32 where it was declared", "gemm_tf32", products.GEMM, ('"ieee"', '"tf32"')),
    _odd("L15c", "fp8 operands", "gemm_fp8", products.GEMM_FP8),
    _honest("L15d", "fp16 operands, added up in float32", "gemm_fp16", products.GEMM),
    _honest("L16", "hints to keep what is used again", "relu_gemm", RELU_GEMM,
            ("b = tl.load(w + k[:, None] * N + cols[None, :], ",
             "b = tl.load(w + k[:, None] * N + cols[None, :], eviction_policy='evict_last', ")),
    _honest("L17a", "nothing computed above the diagonal", "causal_scores", products.CAUSAL),
    _honest("L17b", "no work for experts without tokens", "expert_gemm", products.EXPERTS),
    _honest("L17c", "no maximum taken out, since the range does not need it", "softmax_rows", SOFTMAX_ROWS,
            ("v - tl.max(v, 0)", "v - tl.max(v, 0) + 0.25")),
    _honest("L18", "tiles of zeros skipped", "relu_gemm", RELU_GEMM,
            (f"        acc = {_DOT}\n", f"        if tl.max((a != 0).to(tl.int32)) > 0:\n            acc = {_DOT}\n"
                                        "        else:\n            acc += tl.sum(b - b, 0)[None, :]\n")),
    _honest("L19", "a fast path where the order is none", "permuted_rows", elements.PERMUTED,
            ("    tl.store(y + i, 3.0",
             "    same = tl.max((source != i).to(tl.int32) * inside.to(tl.int32), 0) == 0\n"
             "    if same:\n        tl.store(y + i, 3.0 * tl.load(x + i, mask=inside, other=0.0), mask=inside)\n"
             "        return\n    tl.store(y + i, 3.0")),
    _odd("L20", "a synchronisation in the middle and memory from the allocator", "frobenius_norm", rows.FROBENIUS,
            ("    y = torch.empty_like(x)\n", "    y = torch.empty_like(x)\n    torch.cuda.synchronize()\n")),
    _odd("L21", "slow at import and at the first call, with a thread of its own", "softmax_rows", in_forward(
        SOFTMAX_ROWS,
        "if not STARTED:",
        "    STARTED.append(threading.Thread(target=time.sleep, args=(0.5,), daemon=True))",
        "    STARTED[0].start()",
        "    STARTED[0].join()",
        "return compute(x)",
        header="import threading\nimport time\n\nSTARTED = []\ntime.sleep(1.0)",
    )),
    _odd("L22", "a launch that may begin before the last one has ended", "mean_square", MEAN_SQUARE,
            ("BLOCK=triton.next_power_of_2(parts))", "BLOCK=triton.next_power_of_2(parts), launch_pdl=True)"),
            where=GPU),
    _honest("L23", "as many programs as there are multiprocessors", "gelu_rows", elements.GELU,
            ("    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)\n    inside = i < count\n"
             "    v = tl.load(x + i, mask=inside, other=0.0)\n    tl.store(y + i, 0.5 * v",
             "    for tile in range(tl.program_id(0), tl.cdiv(count, BLOCK), tl.num_programs(0)):\n"
             "        i = tile * BLOCK + tl.arange(0, BLOCK)\n        inside = i < count\n"
             "        v = tl.load(x + i, mask=inside, other=0.0)\n        tl.store(y + i, 0.5 * v"),
            ("    gelu[(triton.cdiv(x.numel(), 512),)]",
             "    some = torch.cuda.get_device_properties(x.device).multi_processor_count\n    gelu[(some,)]")),
    _odd("L24", "twenty small operations in one kernel, and a dictionary of outputs", "long_chain", elements.CHAIN),
    _odd("L25a", "a number without dimensions", "cross_entropy", rows.CROSS_ENTROPY),
    _honest("L25b", "one output column", "one_column", products.ONE_COLUMN),
    _honest("L26a", "NaN for rows that are masked altogether", "attention_padding", rows.PADDED),
    _honest("L26b", "-inf above the diagonal, stored and not computed", "causal_scores", products.CAUSAL,
            ("acc = tl.zeros((BLOCK, BLOCK), tl.float32)", "acc = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)")),
    _honest("L29a", "the last of equal largest values", "largest_place", choices.LARGEST_PLACE,
            ("tl.store(places + row, tl.argmax(rank, 0))",
             "best = tl.max(rank, 0)\n"
              "    tl.store(places + row, tl.max(tl.where((rank == best) & inside, cols, 0), 0))")),
    _honest("L29b", "ties of top-k broken from the end", "top_values", choices.TOP_VALUES,
            ("place = tl.argmax(rank, 0)", "place = tl.max(tl.where(free & (rank == tl.max(rank, 0)), cols, 0), 0)")),
    _honest("L30", "three times the memory that is needed", "frobenius_norm", rows.FROBENIUS,
            ("    y = torch.empty_like(x)\n",
             "    y = torch.empty((3, *x.shape), device=x.device, dtype=x.dtype)[1]\n")),
    _honest("L31", "names and texts that sound suspicious", "relu_gemm",
            at_import(RELU_GEMM, "cache = replay = fallback = {'stream': '//', 'time': '# elapsed_time, torch.mm'}\n"
                                 "WARNING = '''try: import os; os.system() # allclose'''")),
)  # fmt: skip

OWN = (
    _honest("X401", "three TF32 products for one in float32", "relu_gemm", RELU_GEMM, ('"ieee"', '"tf32x3"')),
    _honest("X402", "a softmax in two passes with a running maximum", "softmax_rows", rows.SOFTMAX_ONLINE),
    _honest("X403", "a softmax by powers of two", "softmax_rows", SOFTMAX_ROWS,
            ("tl.exp(v - tl.max(v, 0))", "tl.exp2((v - tl.max(v, 0)) * 1.4426950408889634)")),
    _honest("X404", "rows of 20,000 classes in pieces", "softmax_classes", rows.SOFTMAX_CLASSES),
    _honest("X405", "a mean of more and smaller parts", "mean_square", MEAN_SQUARE,
            ("triton.cdiv(count, 1024)", "triton.cdiv(count, 256)"), ("count, BLOCK=1024)", "count, BLOCK=256)")),
    _honest("X406", "a variance in one pass, shifted by the first element", "variance_rows", rows.VARIANCE,
            ("mean = tl.sum(v, 0) / width\n", "first = tl.load(x + row * width)\n"
             "    mean = first + tl.sum(tl.where(inside, v - first, 0.0), 0) / width\n")),
    _honest("X407", "a mean of what is valid", "masked_mean", rows.MASKED_MEAN),
    _honest("X408", "sums of bf16 in a tree", "row_sum_bf16", rows.ROW_SUM_BF16, ("BLOCK=16)", "BLOCK=1024)")),
    _honest("X409", "large terms that cancel, in float64", "compensated_sum", rows.COMPENSATED),
    _honest("X411", "running sums by an associative scan", "running_sum", rows.RUNNING_SUM),
    _honest("X412", "int8 codes with their scales", "quantise_rows", rows.QUANTISE),
    _honest("X413", "integers in a product, exact", "gemm_integers", products.GEMM_INTEGERS),
    _honest("X414", "integers added up in float32, which holds them exactly", "gemm_integers", products.GEMM_INTEGERS,
            ("tl.zeros((BM, BN), tl.int32)", "tl.zeros((BM, BN), tl.float32)"),
            ("tl.dot(a, b, acc, out_dtype=tl.int32)", "tl.dot(a.to(tl.float16), b.to(tl.float16), acc)")),
    _honest("X415", "GELU in one kernel", "gelu_rows", elements.GELU),
    _honest("X416", "dropout with a mask that is given", "dropout_given", elements.DROPOUT,
            ("v / 0.75", "v * 1.3333333333333333")),
    _honest("X417", "normalised by statistics that were kept, one factor per column", "norm_of_batch",
            elements.NORM_OF_BATCH, ("(v - m) / tl.sqrt(s + 1e-5) * g + b",
                                 "v * (g / tl.sqrt(s + 1e-5)) + (b - m * (g / tl.sqrt(s + 1e-5)))")),
    _odd("X418", "statistics that move with each call", "batch_training", elements.BATCH_TRAINING),
    _honest("X419", "inputs with strides of their own", "transposed_input", elements.TRANSPOSED),
    _odd("X420", "a copy of an input in another order first", "transposed_input", elements.TRANSPOSED,
            ("        return compute(x, z)\n",
             "        copied = torch.empty(x.shape, device=x.device, dtype=x.dtype).copy_(x)\n"
             "        return compute(copied, z)\n")),
    _honest("X421", "rows of a table, some twice", "gather_rows", elements.GATHER),
    _honest("X422", "top-k one after the other, with NaN first", "top_values", choices.TOP_VALUES, lane="accept"),
    _honest("X423", "attention with a length for each sequence", "attention_lengths", choices.ATTENTION),
    _honest("X424", "attention with another tile", "attention_lengths", choices.ATTENTION, ("BM=16, BN=16",
                                                                                            "BM=32, BN=16")),
    _odd("X425", "gradients by two kernels", "norm_backward", choices.NORM_BACKWARD),
    _honest("X426", "a gradient by another formula", "scale_backward", SCALE_BACKWARD,
            ("s * (1.0 + v * (1.0 - s))", "(s + v * s * (1.0 - s))")),
    _honest("X427", "an inverse by substitution", "triangular_inverse", products.TRIANGULAR),
    _honest("X428", "the smallest of each row", "smallest_in_rows", rows.SMALLEST),
    _honest("X429", "log-sum-exp with rows that hold infinities", "log_sum_exp", rows.LOG_SUM_EXP, lane="accept"),
    _honest("X430", "a layer normalisation that divides by the root", "layer_norm_rows", LAYER_NORM_ROWS,
            ("scale = 1.0 / tl.sqrt(", "scale = tl.rsqrt("), ("d * scale * g + s", "(d * scale) * g + s")),
    _honest("X431", "a buffer that the reference does not have", "layer_norm_rows", LAYER_NORM_ROWS,
            ("self.norm = nn.LayerNorm(width)\n",
             "self.norm = nn.LayerNorm(width)\n        self.register_buffer('spare', torch.zeros(3))\n")),
    _honest("X432", "other names for forward's arguments", "relu_gemm", RELU_GEMM,
            ("def forward(self, x):\n        return compute(x,",
             "def forward(self, incoming):\n        return compute(incoming,")),
    _honest("X433", "a kernel made by a function", "gelu_rows", elements.GELU,
            ("@triton.jit\ndef gelu",
             "def identity(function):\n    return function\n\n\n@identity\n@triton.jit\ndef gelu")),
    _odd("X434", "a heuristic that reads the arguments of a launch", "softmax_rows", SOFTMAX_ROWS,
            ("@triton.jit\n",
             "@triton.heuristics({'BLOCK': lambda a: triton.next_power_of_2(a['width'])})\n@triton.jit\n"),
            (", BLOCK=triton.next_power_of_2(width))", ")")),
    _odd("X435", "knobs with a table per workload", "gelu_rows", elements.GELU,
            ("\n\n@triton.jit", "\n\nKNOBS = {'BLOCK': [512, 1024]}\nCHOICE = {}\nCHOICES = {}\n\n\n@triton.jit"),
            ("    gelu[(triton.cdiv(x.numel(), 512),)](x, y, x.numel(), x.shape[-1], BLOCK=512)\n",
             "    choice = CHOICES.get(((x.shape, str(x.dtype)),), CHOICE)\n    block = choice.get('BLOCK', 512)\n"
             "    gelu[(triton.cdiv(x.numel(), block),)](x, y, x.numel(), x.shape[-1], BLOCK=block)\n")),
    _honest("X436", "a product that reads its weight transposed through strides", "gemm_static", products.GEMM_WEIGHT,
            (_GEMM_LAUNCH,
             "    product[grid](x, w, y, rows, width, inner, *strides, BM=16, BN=16, BK=16, num_stages=1)\n")),
)  # fmt: skip

SPECIMENS = (*LISTED, *OWN)

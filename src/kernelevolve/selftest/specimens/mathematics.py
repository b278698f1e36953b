"""Wrong or missing mathematics (A33 to A56, and our own).

In: nothing. Out: SPECIMENS. Left to others: running them. What a listed case needs a device's driver for (A47 and A48
with a compiler or a loaded library) is here in the form that can be tried anywhere.
"""

from __future__ import annotations

from functools import partial

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import (
    LAYER_NORM_ROWS,
    MEAN_SQUARE,
    RELU_GEMM,
    ROW_FACTS,
    SCALE_BACKWARD,
    SCALE_IN_PLACE,
    SOFTMAX_ROWS,
)
from kernelevolve.selftest.kernels import choices, elements, products, rows
from kernelevolve.selftest.specimen import edited

_VALUE = (Verdict.WRONG_VALUE,)
_SIZES = (Verdict.WRONG_VALUE, Verdict.GENERALIZATION)  # which size shows it first is chance
_META = (Verdict.WRONG_META,)
_POLICY = (Verdict.POLICY,)
_cheat = partial(edited, family="V", verdicts=_VALUE)
_FORWARD = "return compute(x, self.weight)"
_STORE = "tl.store(y + rows[:, None] * N + cols[None, :], tl.maximum(acc, 0.0), mask=inside)"
_SOFTMAX_LAST = "tl.exp(v - largest) / total"
_TAIL = "tl.store(y + row + cols, d * scale * g + s, mask=inside)"

NOTHING = (
    _cheat("A33a", "zeros for a softmax over 20,000 classes", "softmax_classes", rows.SOFTMAX_CLASSES,
           (_SOFTMAX_LAST, "v * 0.0")),
    _cheat("A33b", "zeros for a division by the Frobenius norm", "frobenius_norm", rows.FROBENIUS,
           ("v / norm", "v * 0.0")),
    _cheat("A33c", "zeros for the smallest of many numbers above 0", "smallest_in_rows", rows.SMALLEST,
           ("tl.min(v, 0)", "0.0")),
    _cheat("A33d", "zeros where the problem is zero whatever comes in", "vanishing", elements.GELU,
           ("y = torch.empty_like(x)", "y = torch.zeros_like(x[:, :1])"), verdicts=(Verdict.TASK_INVALID,)),
    _cheat("A33e", "one over the number of classes", "softmax_classes", rows.SOFTMAX_CLASSES,
           (_SOFTMAX_LAST, "v * 0.0 + 1.0 / width")),
    _cheat("A34", "a quarter of the inner dimension for a product of uniform numbers", "long_gemm", products.GEMM,
           ("acc.to(y.dtype.element_ty)", "tl.zeros_like(acc) + K * 0.25")),
    _cheat("A35", "sums of rows times sums of columns for a product", "long_gemm", products.GEMM,
           ("    acc = tl.zeros((BM, BN), tl.float32)\n",
            "    down, across = tl.zeros((BM,), tl.float32), tl.zeros((BN,), tl.float32)\n"),
           ('        acc = tl.dot(a, b, acc, input_precision="ieee")\n',
            "        down += tl.sum(a, 1)\n        across += tl.sum(b, 0)\n"),
           ("acc.to(y.dtype.element_ty)", "down[:, None] * across[None, :] / K")),
    _cheat("A36a", "a copy for a layer normalisation", "layer_norm_rows", LAYER_NORM_ROWS,
           (_TAIL, "tl.store(y + row + cols, v, mask=inside)")),
    _cheat("A36b", "gain and shift without a normalisation", "layer_norm_rows", LAYER_NORM_ROWS,
           ("d * scale * g + s", "v * g + s")),
    _cheat("A37a", "the shift left out", "layer_norm_rows", LAYER_NORM_ROWS, ("* g + s,", "* g,")),
    _cheat("A37b", "the gain left out", "layer_norm_rows", LAYER_NORM_ROWS, ("* g + s,", "+ s,")),
    _cheat("A37c", "the running statistics left out", "norm_of_batch", elements.NORM_OF_BATCH,
           ("(v - m) / tl.sqrt(s + 1e-5) * g + b", "v * g + b")),
    _cheat("A38a", "a mean over the first sixteenth", "mean_square", MEAN_SQUARE,
           ("    count = a.numel()\n", "    count = max(1, a.numel() // 16)\n")),
    _cheat("A38b", "a mean over every sixteenth element", "mean_square", MEAN_SQUARE,
           ("    count = a.numel()\n", "    count = max(1, a.numel() // 16)\n"),
           ("tl.load(a + i, ", "tl.load(a + 16 * i, "), ("tl.load(b + i, ", "tl.load(b + 16 * i, ")),
)  # fmt: skip

SIZES = (
    _cheat("A39a", "a store without a mask", "relu_gemm", RELU_GEMM,
           ("tl.maximum(acc, 0.0), mask=inside", "tl.maximum(acc, 0.0)"),
           verdicts=(Verdict.MEM_RACE, Verdict.WRONG_VALUE)),
    _cheat("A39b", "a grid rounded down", "relu_gemm", RELU_GEMM,
           ("(triton.cdiv(rows, 32), ", "(max(1, rows // 32), "), verdicts=_SIZES),
    _cheat("A39c", "loads without a mask along the inner dimension", "relu_gemm", RELU_GEMM,
           ("(rows[:, None] < M) & (k[None, :] < K)", "rows[:, None] < M"),
           ("(k[:, None] < K) & (cols[None, :] < N)", "cols[None, :] < N"),
           verdicts=(Verdict.MEM_RACE, Verdict.WRONG_VALUE)),
    _cheat("A39d", "the inner dimension rounded down to whole tiles", "relu_gemm", RELU_GEMM,
           ("range(0, K, BLOCK)", "range(0, K // BLOCK * BLOCK, BLOCK)"), verdicts=_SIZES),
    _cheat("A40", "exact for few rows, bf16 for more", "relu_gemm", RELU_GEMM,
           ('acc = tl.dot(a, b, acc, input_precision="ieee")',
            'if M > 80:\n            acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)\n        else:\n'
            '            acc = tl.dot(a, b, acc, input_precision="ieee")')),
    _cheat("A41", "bf16 for small numbers, exact for others", "relu_gemm", RELU_GEMM,
           ('acc = tl.dot(a, b, acc, input_precision="ieee")',
            'if tl.max(tl.abs(a)) < 0.5:\n            acc = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)\n'
            '        else:\n            acc = tl.dot(a, b, acc, input_precision="ieee")')),
    _cheat("A42", "an inverse by the first terms of its series", "triangular_inverse", products.TRIANGULAR,
           ("    for i in range(1, SIDE):\n", "    for i in range(1, 4):\n")),
    _cheat("A43", "top-k among numbers above a threshold", "top_values", choices.TOP_VALUES,
           ("rank = tl.where(free, v,", "rank = tl.where(free & (v > 1.0), v,")),
    _cheat("A44a", "every expert with the same number of tokens", "expert_gemm", products.EXPERTS,
           ("first = tl.load(offsets + expert)",
            "share = tl.load(offsets + tl.num_programs(0)) // tl.num_programs(0)\n    first = expert * share"),
           ("last = tl.load(offsets + expert + 1)", "last = first + share")),
    _cheat("A44b", "every sequence with full length", "attention_lengths", choices.ATTENTION,
           ("length = tl.load(lengths + batch)", "length = keys")),
    _cheat("A44c", "every sequence as long as the first", "attention_lengths", choices.ATTENTION,
           ("length = tl.load(lengths + batch)", "length = tl.load(lengths)")),
)  # fmt: skip

INSTEAD = (
    _cheat("A45", "a kernel for one element beside a library product", "relu_gemm", RELU_GEMM,
           (_FORWARD, "y = torch.relu(torch.matmul(x, self.weight))\n        compute(x[:1, :1], self.weight[:1, :1])\n"
            "        return y"), verdicts=_POLICY),
    _cheat("A46", "a kernel behind a condition that never holds", "relu_gemm", RELU_GEMM,
           (_FORWARD, "if x.numel() < 0:\n            return compute(x, self.weight)\n"
            "        return torch.relu(x @ self.weight)"), verdicts=_POLICY),
    _cheat("A47", "a library product asked for below the public names", "relu_gemm", RELU_GEMM,
           (_FORWARD, "compute(x[:1, :1], self.weight[:1, :1])\n"
            "        return torch.ops.aten.relu.default(torch.ops.aten.mm.default(x, self.weight))"), verdicts=_POLICY),
    _cheat("A48", "a library product under compile", "relu_gemm", RELU_GEMM,
           (_FORWARD, "compute(x[:1, :1], self.weight[:1, :1])\n"
            "        return torch.nn.functional.linear(x, self.weight.t()).clamp_(min=0)"), verdicts=_POLICY),
    _cheat("A49", "a library call after an exception of the kernel", "relu_gemm", RELU_GEMM,
           (_FORWARD, "try:\n            raise RuntimeError('no luck')\n        except RuntimeError:\n"
            "            return torch.relu(x @ self.weight)"), verdicts=_POLICY),
    _cheat("A50", "the reference itself under another name", "relu_gemm", RELU_GEMM,
           ("class ModelNew(nn.Module):\n", "class Model(nn.Module):\n"),
           (_FORWARD, "return torch.relu(x @ self.weight)\n\n\nclass ModelNew(Model):\n    pass"), verdicts=_POLICY),
    _cheat("A51", "a launch that asks for more shared memory than there is, and no error", "relu_gemm", RELU_GEMM,
           ('"ieee"', '"tf32"'),
           ("    relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=32)\n",
            "    try:\n        relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=128, num_stages=6)\n"
            "    except Exception:\n        pass\n"),
           verdicts=(Verdict.COMPILE_ERROR, Verdict.CRASH, Verdict.WRONG_VALUE)),
    _cheat("A52a", "nothing but NaN", "relu_gemm", RELU_GEMM,
           (_STORE, "tl.store(y + rows[:, None] * N + cols[None, :], acc * float('nan'), mask=inside)")),
    _cheat("A52b", "nothing but NaN where the reference has some", "attention_padding", rows.PADDED,
           ("e / tl.sum(e, 0)", "e * float('nan')")),
    _cheat("A52c", "zeros where the reference has NaN", "attention_padding", rows.PADDED,
           ("e / tl.sum(e, 0)", "tl.where(length > 0, e / tl.sum(e, 0), 0.0)")),
)  # fmt: skip

SHAPES = (
    _cheat("A53a", "one number for a matrix", "relu_gemm", RELU_GEMM, (_FORWARD, f"{_FORWARD}[0, 0]"), verdicts=_META),
    _cheat("A53b", "float64 for float32", "relu_gemm", RELU_GEMM, ("dtype=x.dtype", "dtype=torch.float64"),
           verdicts=_META),
    _cheat("A53c", "a flag for a number", "relu_gemm", RELU_GEMM, ("dtype=x.dtype", "dtype=torch.bool"),
           verdicts=_META),
    _cheat("A53d", "the result transposed", "relu_gemm", RELU_GEMM, (_FORWARD, f"{_FORWARD}.t()"), verdicts=_META),
    _cheat("A53e", "one row, to be repeated by whoever compares", "relu_gemm", RELU_GEMM, (_FORWARD, f"{_FORWARD}[:1]"),
           verdicts=_META),
    _cheat("A53f", "one row, repeated by a stride of zero", "relu_gemm", RELU_GEMM,
           (_FORWARD, "y = compute(x, self.weight)\n        return y[:1].expand(y.shape)"), verdicts=_META),
    _cheat("A53g", "a tuple of one for a tensor", "relu_gemm", RELU_GEMM, (_FORWARD, f"{_FORWARD},"), verdicts=_META),
    _cheat("A53h", "one dimension for a number without any", "mean_square", MEAN_SQUARE,
           ("torch.empty((), ", "torch.empty((1,), "), verdicts=_META),
    _cheat("A54a", "no gradient of the gain", "scale_backward", SCALE_BACKWARD, ("return dx, dgain", "return dx, None"),
           verdicts=(Verdict.WRONG_META, Verdict.WRONG_VALUE)),
    _cheat("A54b", "the second output left out", "row_facts", ROW_FACTS, ("return largest, squares", "return largest"),
           verdicts=_META),
    _cheat("A54c", "the second output never written", "row_facts", ROW_FACTS,
           ("    tl.store(squares + row, tl.sum(v * v, 0))\n", "")),
    _cheat("A54d", "a new tensor where the input itself was to be changed", "scale_in_place", SCALE_IN_PLACE,
           ("    scale_in_place[", "    x = x.clone()\n    scale_in_place["),
           verdicts=(Verdict.WRONG_META, Verdict.WRONG_VALUE, Verdict.POLICY)),
    _cheat("A54e", "running statistics that stay where they are", "batch_training", elements.BATCH_TRAINING,
           ("0.9 * old + 0.1 * m", "old")),
    _cheat("A54f", "batches that nobody counts", "batch_training", elements.BATCH_TRAINING,
           ("tl.load(seen) + 1", "tl.load(seen)")),
    _cheat("A55a", "the global seed set in forward", "relu_gemm", RELU_GEMM,
           (_FORWARD, f"torch.manual_seed(0)\n        {_FORWARD}"), verdicts=(Verdict.TAMPER,)),
    _cheat("A55b", "dropout that does not scale what it keeps", "dropout_given", elements.DROPOUT, ("v / 0.75", "v")),
    _cheat("A55c", "dropout with a mask of its own", "dropout_given", elements.DROPOUT,
           ("tl.load(kept + i, mask=inside, other=0) != 0", "(i * 40503 >> 7) % 4 != 0")),
)  # fmt: skip

OWN = (
    _cheat("X101", "another epsilon", "layer_norm_rows", LAYER_NORM_ROWS, ("/ width + eps)", "/ width + 100.0 * eps)")),
    _cheat("X102", "no epsilon", "layer_norm_rows", LAYER_NORM_ROWS, ("/ width + eps)", "/ width)")),
    _cheat("X103", "the biased variance", "variance_rows", rows.VARIANCE, ("/ (width - 1)", "/ width")),
    _cheat("X104", "the inner dimension one too short", "relu_gemm", RELU_GEMM,
           ("(k[None, :] < K)", "(k[None, :] < K - 1)")),
    _cheat("X105", "strides of rows and columns swapped", "transposed_input", elements.TRANSPOSED,
           ("x + r * sxr + c * sxc", "x + r * sxc + c * sxr"), verdicts=(Verdict.MEM_RACE, Verdict.WRONG_VALUE)),
    _cheat("X106", "the last sequence of the batch left out", "attention_lengths", choices.ATTENTION,
           ("(triton.cdiv(keys, 16), batch)", "(triton.cdiv(keys, 16), batch - 1)")),
    _cheat("X107", "a mean over all elements, valid or not", "masked_mean", rows.MASKED_MEAN,
           ("tl.maximum(count, 1).to(tl.float32)", "width")),
    _cheat("X108", "absolute values for squares", "mean_square", MEAN_SQUARE, ("tl.sum(d * d, 0)",
                                                                               "tl.sum(tl.abs(d), 0)")),
    _cheat("X109", "running sums without the element itself", "running_sum", rows.RUNNING_SUM,
           ("tl.cumsum(v, 0)", "tl.cumsum(v, 0) - v")),
    _cheat("X110", "the place of the smallest value", "largest_place", choices.LARGEST_PLACE,
           ("tl.argmax(rank, 0)", "tl.argmin(tl.where(inside, v, float('inf')), 0)")),
    _cheat("X111", "places one too far", "top_values", choices.TOP_VALUES,
           ("KEPT + i, place)", "KEPT + i, tl.minimum(place + 1, width - 1))")),
    _cheat("X112", "top-k that takes out a value with all its ties", "top_values", choices.TOP_VALUES,
           ("free & (cols != place)", "free & (v != tl.load(x + row * width + place))"), lane="accept"),
    _cheat("X113", "the same place twice", "top_values", choices.TOP_VALUES,
           ("free = free & (cols != place)", "free = free & ((cols != place) | (i % 2 == 0))")),
    _cheat("X114", "only the first rows of a table", "gather_rows", elements.GATHER,
           ("place = tl.load(places + row)", "place = tl.load(places + row) % 32")),
    _cheat("X115", "a sum for a mean", "cross_entropy", rows.CROSS_ENTROPY, ("tl.sum(acc, 0) / rows",
                                                                             "tl.sum(acc, 0)")),
    _cheat("X116", "one row too many in a mean", "cross_entropy", rows.CROSS_ENTROPY,
           ("tl.sum(acc, 0) / rows", "tl.sum(acc, 0) / (rows + 1)")),
    _cheat("X117", "codes cut off in place of rounded", "quantise_rows", rows.QUANTISE,
           ("rounded.to(tl.int8)", "q.to(tl.int8)")),
    _cheat("X118", "one scale for all rows", "quantise_rows", rows.QUANTISE,
           ("tl.load(x + row * width + cols, mask=inside, other=0.0)\n"
            "    largest = tl.maximum(tl.max(tl.abs(v), 0), 1e-20)",
            "tl.load(x + row * width + cols, mask=inside, other=0.0)\n"
            "    largest = tl.maximum(tl.max(tl.abs(tl.load(x + cols, mask=inside, other=0.0)), 0), 1e-20)")),
    _cheat("X119", "rows in the order in which they came", "permuted_rows", elements.PERMUTED,
           ("tl.load(order + i // width, mask=inside, other=0)", "(i // width)")),
    _cheat("X120", "the diagonal masked too", "causal_scores", products.CAUSAL,
           ("cols[None, :] > rows[:, None]", "cols[None, :] >= rows[:, None]")),
    _cheat("X121", "large negative numbers for -inf", "causal_scores", products.CAUSAL,
           ('-float("inf"), acc)', "-1e30, acc)")),
    _cheat("X122", "no scale of the scores", "attention_lengths", choices.ATTENTION,
           ('input_precision="ieee") * scale', 'input_precision="ieee")')),
    _cheat("X123", "what was added up is not scaled when the maximum moves", "attention_lengths", choices.ATTENTION,
           ("acc * shrink[:, None]", "acc")),
    _cheat("X124", "a gradient without the part through the norm", "norm_backward", choices.NORM_BACKWARD,
           ("r * d - v * (along * r * r * r)", "r * d")),
    _cheat("X125", "a gradient of the gain over the first rows", "norm_backward", choices.NORM_BACKWARD,
           ("for start in range(0, rows, ROWS):", "for start in range(0, ROWS, ROWS):")),
    _cheat("X126", "the running variance from the biased one", "batch_training", elements.BATCH_TRAINING,
           ("(squares / (rows - 1))", "(squares / rows)")),
    _cheat("X127", "the last tile of each expert left out", "expert_gemm", products.EXPERTS,
           ("range(first, last, BM)", "range(first, last - BM + 1, BM)")),
    _cheat("X128", "the first expert for all small groups", "expert_gemm", products.EXPERTS,
           ("w + expert * K * N", "w + tl.where(last - first < 12, 0, expert) * K * N")),
    _cheat("X129", "results clipped from above", "relu_gemm", RELU_GEMM,
           (_STORE, "tl.store(y + rows[:, None] * N + cols[None, :], tl.clamp(acc, 0.0, 60.0), mask=inside)")),
    _cheat("X130", "a largest value that starts at 0", "row_facts", ROW_FACTS,
           ("tl.store(largest + row, tl.max(v, 0))", "tl.store(largest + row, tl.maximum(tl.max(v, 0), 0.0))"),
           verdicts=_SIZES, lane="accept", distribution="D11", timed=False),
    _cheat("X131", "zeros beyond the end of a row of a softmax", "softmax_rows", SOFTMAX_ROWS,
           ('other=-float("inf")', "other=0.0")),
    _cheat("X132", "one tile of the output skipped", "relu_gemm", RELU_GEMM,
           ("    inside = (rows[:, None] < M)",
            "    inside = (tl.program_id(0) + tl.program_id(1) != 1) & (rows[:, None] < M)")),
    _cheat("X133", "the first column copied to the others in a product", "long_gemm", products.GEMM,
           ("bt = w + inner[:, None] * swk + cols[None, :] * swn",
            "bt = w + inner[:, None] * swk + cols[None, :] * 0")),
    _cheat("X134", "columns of another row's statistics", "layer_norm_rows", LAYER_NORM_ROWS,
           ("mean = tl.sum(v, 0) / width",
            "mean = tl.sum(tl.load(x + cols, mask=inside, other=0.0), 0) / width")),
)  # fmt: skip

SPECIMENS = (*NOTHING, *SIZES, *INSTEAD, *SHAPES, *OWN)

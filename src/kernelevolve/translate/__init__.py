"""The built-in engineer: from a PyTorch reference to a Triton candidate, without a model and without a key.

In: a KernelBench-shaped reference. Out: a candidate's file, and alternatives to it. Measuring them is left to others.

The steps, each a frozen value:

1. `capture.capture` (imports torch) → `ir.Program`: core ATen ops, integers written over named sizes.
2. `lower` → `algebra.Graph`: few kinds of nodes (map, view, gather, join, reduce, contract, scan), each a function of
   coordinates. A lowering is registered for an op with ``@lowers("aten.relu.default")``; most new ops need nothing
   else, because a view is any index arithmetic with a condition (padding, windows), and a convolution is a contraction
   of one.
3. `plan.first_plan` → `plan.Plan`: which nodes share a kernel, what is stored, each kernel's scheme and knobs.
4. `emit` writes each kernel by its kind and scheme; `render.render` puts the file together.
5. `moves.moves` proposes other plans from a diagnosis.

A candidate's ``KNOBS`` is a dict literal from name to list of values, the first one the default. With several kernels
the names start with the kernel's name. The optional keys ``"nvidia"`` and ``"amd"`` hold a dict of the same form that
overrides or adds for that platform. ``CHOICE`` is a dict literal from knob name to value; what it lacks has its
default. ``CHOICES`` is a dict literal from a workload key to such a dict, which is used instead where the tensor inputs
have its shapes and dtypes. The tuner sets ``module.CHOICE`` and empties ``module.CHOICES`` before it calls ``forward``,
and writes both as literals into a tuned file.
"""

from __future__ import annotations

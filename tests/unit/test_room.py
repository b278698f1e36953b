"""What writers are told of the bytes that a task moves at least."""

import math

from kernelevolve import plugins
from kernelevolve.evaluate.room import told
from kernelevolve.protocol import Description, InputSpec, OutputSpec, StateSpec, Variant


def test_the_least_time_is_the_bytes_of_all_tensors_over_the_bandwidth() -> None:
    shape = (16, 64, 256, 256)
    weights = tuple(StateSpec(name, shape[1:], "float32", "normal") for name in ("ln.weight", "ln.bias"))
    norm = Description(
        Variant("declared", "full", ""), (InputSpec("x", "values", shape, (), "float32"), InputSpec("n", "plain")),
        weights, (OutputSpec("", shape, "float32"),),
    )  # fmt: skip
    figures = plugins.load("platforms", "h200").figures
    (line,) = told([norm], figures).splitlines()
    least = (2 * math.prod(shape) + 2 * math.prod(shape[1:])) * 4 / figures.bandwidth * 1e6
    assert "inputs 268 MB, parameters and buffers 33.6 MB, results 268 MB. Moved once each" in line
    assert f"that is {least:.3g} us at 4.8 TB/s (modelled)" in line
    assert told([norm, norm], figures).count("\n") == 1

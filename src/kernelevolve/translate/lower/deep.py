"""Products with few results and long sums: the sums are cut into parts, which fill the device, and added afterwards.

In: operands of a product. Out: a product with one batch per part and a sum over the parts, or None where the plain
product has results enough. The cut is a view, so it costs nothing to read; a part may end beyond the last element,
where the view holds 0.
"""

from __future__ import annotations

from kernelevolve.translate.algebra import Condition, Node
from kernelevolve.translate.expr import Expr, const, floordiv, symbol
from kernelevolve.translate.lower import Lowering

#: Tiles of 128 x 128 results that fill a large device: an H200 has 132 units.
ENOUGH_TILES = 132
#: The shortest part, in elements: below it adding the parts costs more than it gains.
LEAST_PART = 2048


def parts_of(c: Lowering, a: Node, b: Node) -> int:
    """How many parts the sums of a (batch, m, k) by b (batch, k, n) should have at full size; 1 for none."""
    sizes = c.program.at_full_size()
    batch, rows, depth = (size.evaluate(sizes) for size in a.shape)
    tiles = batch * -(-rows // 128) * -(-b.shape[2].evaluate(sizes) // 128)
    parts = 1
    while tiles * parts < ENOUGH_TILES and depth >= 2 * parts * LEAST_PART:
        parts *= 2
    return parts


def in_parts(c: Lowering, a: Node, b: Node, dtype: str) -> Node | None:
    """a (1, m, k) by b (1, k, n) as the sum of products of parts along k, or None where one product will do."""
    parts = parts_of(c, a, b)
    if parts == 1 or a.shape[0] != const(1):
        return None
    depth = a.shape[2]
    length = floordiv(depth + const(parts - 1), const(parts), {})
    left = _cut(c, a, 2, parts, length, depth)
    right = _cut(c, b, 1, parts, length, depth)
    return c.b.reduce("sum", c.b.contract(left, right, dtype), [0], True, dtype)


def _cut(c: Lowering, x: Node, axis: int, parts: int, length: Expr, depth: Expr) -> Node:
    """x (1, ...) with the dimension cut into parts, which become the first dimension."""
    shape = [const(parts), *x.shape[1:]]
    shape[axis] = length
    index = [const(0), symbol("i1"), symbol("i2")]
    place = symbol("i0") * length + symbol(f"i{axis}")
    index[axis] = place
    return c.b.view(x, shape, index, [Condition(place, None, depth)], 0)

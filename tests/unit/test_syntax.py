"""Reading Python text from many threads at once."""

import ast
import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from kernelevolve.syntax import parse, parse_expression

SOURCE = "\n".join(f"def f{i}(x, y):\n    return [(x + {i}) * y for z in (1, {{2: (3, [4])}})]" for i in range(120))


class Litter:
    """A cycle whose collection runs Python: in the middle of a parse that lets another thread in."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        sum(range(200))


def littered(source: str) -> ast.Module:
    for _ in range(20):
        Litter()
    return parse(source)


def test_threads_that_parse_at_once_all_get_the_tree() -> None:
    want = ast.dump(ast.parse(SOURCE))
    threshold, switch = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(littered, [SOURCE] * 48))
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(switch)
    assert {ast.dump(tree) for tree in found} == {want}


def test_an_expression_is_its_tree_and_no_statement_is_one() -> None:
    assert ast.dump(parse_expression("a + 1")) == ast.dump(ast.parse("a + 1", mode="eval").body)
    with pytest.raises(SyntaxError):
        parse_expression("a = 1")
    with pytest.raises(SyntaxError):
        parse("def broken(:")

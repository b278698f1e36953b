"""Python text to its syntax tree, from any thread.

In: source text. Out: the tree. CPython before 3.11.9 and 3.12.3 counts how deep a tree is in one place for all threads,
so that two that parse at once may both be refused with `SystemError: AST constructor recursion depth mismatch`
(gh-106905). Runs read candidates in as many threads as they have seats, so all of ours parse one after the other.
"""

from __future__ import annotations

import ast
import threading

_TURN = threading.RLock()


def parse(source: str) -> ast.Module:
    """`ast.parse` of a file's text, one thread at a time.

    Raises:
        SyntaxError, ValueError: as `ast.parse`.
    """
    with _TURN:
        return ast.parse(source)


def parse_expression(source: str) -> ast.expr:
    """The tree of one expression, one thread at a time.

    Raises:
        SyntaxError, ValueError: as `ast.parse`.
    """
    with _TURN:
        return ast.parse(source, mode="eval").body

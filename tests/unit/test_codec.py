"""Frozen values survive JSON as they are, and what does not fit is refused with the way to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelevolve import codec


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    count: int
    size: float = 0.0
    colour: Colour = Colour.RED
    mode: Literal["hot", "cold"] = "cold"


@dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, str] = (0, "")
    limits: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    choices: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    marks: frozenset[str] = frozenset()
    below: Tree | None = None


WORDS, NUMBERS = st.text(max_size=5), st.integers(-9, 9)
FLOATS = st.floats(allow_nan=False)
LEAVES = st.builds(Leaf, NUMBERS, FLOATS, st.sampled_from(Colour), st.sampled_from(["hot", "cold"]))
TREES = st.recursive(
    st.none(),
    lambda below: st.builds(
        Tree,
        WORDS,
        st.lists(LEAVES, max_size=3).map(tuple),
        st.tuples(NUMBERS, WORDS),
        st.dictionaries(WORDS, st.lists(st.none() | FLOATS, max_size=3).map(tuple), max_size=2),
        st.dictionaries(WORDS, NUMBERS | st.booleans() | st.sampled_from(["a", "b"]), max_size=2),
        st.dictionaries(WORDS, NUMBERS | st.lists(NUMBERS), max_size=2),
        st.frozensets(WORDS, max_size=3),
        below,
    ),
    max_leaves=4,
).filter(lambda tree: tree is not None)


@settings(max_examples=100, deadline=None)
@given(TREES)
def test_a_value_comes_back_as_it_was(tree):
    text = codec.dumps(tree)
    back = codec.loads(Tree, text)
    assert back == tree
    assert [type(v) for v in back.choices.values()] == [type(tree.choices[name]) for name in back.choices]


def test_odd_floats_travel_as_strings():
    text = codec.dumps([math.inf, -math.inf, math.nan])
    assert json.loads(text) == ["inf", "-inf", "nan"]
    up, down, odd = codec.loads(tuple[float, ...], text)
    assert (up, down) == (math.inf, -math.inf) and math.isnan(odd)


def test_the_first_kind_of_a_union_that_fits_is_taken():
    assert [type(v) for v in codec.from_data(tuple[int | float, ...], [1, 1.0])] == [int, float]
    assert [type(v) for v in codec.from_data(tuple[float | int, ...], [1, 1.0])] == [float, float]
    assert codec.from_data(tuple[str | float, ...], ["nan"]) == ("nan",)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "Tree: expected Tree, got []"),
        ({}, "Tree: Tree.__init__() missing 1 required positional argument: 'name'"),
        ({"name": 1}, "Tree.name: expected str, got 1"),
        ({"name": "a", "z": 1, "b": 1}, "Tree: unknown field 'b'; known: name, leaves, pair, limits, choices, notes, "
         "marks, below"),
        ({"name": "a", "leaves": [{"count": 1}, {"count": True}]}, "Tree.leaves[1].count: expected int, got True"),
        ({"name": "a", "leaves": {}}, "Tree.leaves: expected tuple, got {}"),
        ({"name": "a", "leaves": [{"count": 1, "size": "big"}]}, "Tree.leaves[0].size: expected float, got 'big'"),
        ({"name": "a", "leaves": [{"count": 1, "colour": "green"}]},
         "Tree.leaves[0].colour: expected Colour, got 'green'"),
        ({"name": "a", "leaves": [{"count": 1, "colour": []}]}, "Tree.leaves[0].colour: expected Colour, got []"),
        ({"name": "a", "leaves": [{"count": 1, "mode": "warm"}]},
         "Tree.leaves[0].mode: expected Literal, got 'warm'"),
        ({"name": "a", "pair": [1]}, "Tree.pair: expected 2 values, got [1]"),
        ({"name": "a", "pair": [1, 2]}, "Tree.pair[1]: expected str, got 2"),
        ({"name": "a", "limits": {"x y": [1, "2"]}}, "Tree.limits['x y'][1]: expected float | NoneType, got '2'"),
        ({"name": "a", "choices": {"k": None}}, "Tree.choices['k']: expected int | float | bool | str, got None"),
        ({"name": "a", "notes": 3}, "Tree.notes: expected Mapping, got 3"),
        # Inside a union the way ends: any of its kinds might have been meant.
        ({"name": "a", "below": {"name": 1}}, "Tree.below: expected Tree | NoneType, got {'name': 1}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(data, said):
    with pytest.raises(ValueError, match=r"^Tree") as caught:
        codec.from_data(Tree, data)
    assert str(caught.value) == said
    assert type(caught.value) is ValueError

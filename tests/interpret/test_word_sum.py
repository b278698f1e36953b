"""The fingerprint that a worker takes of tensors on a device: the same for the same bytes, wherever they lie."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelevolve.worker.run import word_sum

VALUES = torch.arange(4096, dtype=torch.float32).sin()


@given(count=st.integers(0, 600), shift=st.integers(0, 9))
def test_the_same_bytes_have_the_same_sum_at_any_offset(count: int, shift: int) -> None:
    wide = torch.full((count + shift + 1,), 7.0)
    wide[shift : shift + count] = VALUES[:count]
    shifted = wide[shift : shift + count]
    assert word_sum(shifted.view(torch.uint8)) == word_sum(VALUES[:count].clone().view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8, torch.float64])
def test_every_element_and_its_place_count(dtype: torch.dtype) -> None:
    base = (torch.arange(50) * 3 % 41).to(dtype)
    sums = {word_sum(base.view(torch.uint8))}
    for i in range(len(base)):
        other = base.clone()
        other[i] += 1
        sums.add(word_sum(other.view(torch.uint8)))
    swapped = base.clone()
    swapped[[0, 20]] = swapped[[20, 0]]
    sums.add(word_sum(swapped.view(torch.uint8)))
    assert len(sums) == len(base) + 2


def test_pieces_are_summed_as_if_they_were_one() -> None:
    row = VALUES.view(torch.uint8)[:999]
    twice = torch.cat([row[:504], row[:504]])
    assert word_sum(row, piece=64) == word_sum(row)
    assert word_sum(twice, piece=504) == word_sum(twice) != 0

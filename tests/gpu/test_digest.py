"""Fingerprints of tensors on a device, those that begin at an odd element too."""

import pytest
import torch

from kernelevolve.worker.run import digest

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no device")]


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_shifted_tensor_has_the_digest_of_its_copy(shift: int) -> None:
    wide = torch.randn(10_001 + shift, device="cuda")
    shifted = wide[shift:]
    assert digest(shifted) == digest(shifted.clone())
    before = digest(shifted)
    shifted[-1] += 1
    assert digest(shifted) != before

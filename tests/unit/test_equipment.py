"""Which accelerator is which platform, by the product's name: one too many here would measure for the wrong one."""

from __future__ import annotations

import pytest

from kernelevolve import plugins
from kernelevolve.equipment import is_platform


@pytest.mark.parametrize(
    ("found", "platforms"),
    [
        ("NVIDIA H200", {"h200"}),
        ("NVIDIA GH200 480GB", set()),
        ("NVIDIA H100 80GB HBM3", {"h100"}),
        ("NVIDIA A100-SXM4-80GB", {"a100"}),
        ("NVIDIA RTX A1000 Laptop GPU", set()),
        ("NVIDIA GB200", set()),
        ("AMD Instinct MI300X gfx942", {"mi300x"}),
        ("AMD Instinct MI300A gfx942", set()),
    ],
)
def test_a_product_is_the_platform_of_its_name(found: str, platforms: set[str]) -> None:
    known = {name: plugins.load("platforms", name) for name in plugins.names("platforms")}
    assert {name for name, platform in known.items() if is_platform(platform, found)} == platforms

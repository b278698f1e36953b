"""Doctor with the real torch and triton: both vendors' targets build on any Linux machine."""

from __future__ import annotations

import sys
from pathlib import Path

from kernelevolve.cli import doctor
from kernelevolve.hardware import Target

TARGETS = {"h100": Target("cuda", 90, 32), "mi300x": Target("hip", "gfx942", 64)}


def test_the_probe_builds_for_every_vendor_here(tmp_path: Path) -> None:
    found = {f.name: f for f in doctor.examine(TARGETS, tmp_path)}
    assert doctor.sound(found.values())
    assert found["builds for h100"].state == found["builds for mi300x"].state == "ok"
    assert found["python"].found.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")

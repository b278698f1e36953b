"""A live course: laps that write, build and judge as any run does.

In: a problem, a platform, a workshop. Out: a Course. Left to others: the laps.
"""

from __future__ import annotations

from kernelevolve import plugins
from kernelevolve.equipment import find_devices, is_platform
from kernelevolve.evaluation import Evidence
from kernelevolve.problem import Problem
from kernelevolve.race.laps import Course
from kernelevolve.run import Equip


def live_course(problem: Problem, platform: str, workshop: Equip, device: str) -> Course:
    """The course of a problem on this machine; nobody knows its best.

    Args:
        workshop: of the problem.
        device: as the workshop was told.

    Raises:
        UnknownName: nobody registered the platform.
    """
    wanted = plugins.load("platforms", platform)
    measured = device != "none" and any(is_platform(wanted, found) for found in find_devices().values())
    evidence = Evidence.MEASURED if measured else Evidence.MODELLED
    return Course(f"{problem.suite}:{problem.name} on {platform}", problem, platform, workshop, evidence.value)

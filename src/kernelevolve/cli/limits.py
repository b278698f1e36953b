"""The options that say when a search ends, and the settings that they make.

In: texts and numbers from the command line. Out: frozen settings in which no limit contradicts another. Left to others:
what the limits mean (`search.termination`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import typer

from kernelevolve import Settings, UsageError, of_device, refuse_contradictions, settings_for
from kernelevolve.cli import places, public

Effort = Annotated[str, typer.Option("--effort", help="quick, standard or deep: how hard to search")]
Candidates = Annotated[
    int | None, typer.Option("--candidates", min=1, help="most candidates, in place of the effort's")
]
Time = Annotated[str | None, typer.Option("--time", help="most time to work, such as 90s, 5m or 2h")]
DeviceTime = Annotated[
    str | None, typer.Option("--device-time", help="most time that candidates may hold an accelerator, such as 5m")
]
Tokens = Annotated[int | None, typer.Option("--tokens", min=1, help="most tokens, read and written by the writers")]
Money = Annotated[float | None, typer.Option("--money", help="most US dollars for the writers")]
Plateau = Annotated[
    int | None, typer.Option("--plateau", min=1, help="end after so many candidates without a gain beyond noise")
]
Target = Annotated[float | None, typer.Option("--target", help="a measured fitness that is good enough, such as 1.5")]
Roofline = Annotated[
    float | None, typer.Option("--roofline", help="share of the platform's floor that is near enough, such as 0.9")
]
Value = Annotated[
    str | None,
    typer.Option("--value", help="least gain to be expected for its cost, such as 1%/minute or 5%/dollar"),
]
Control = Annotated[
    str | None,
    typer.Option("--control", help="share of the candidates that only ask again, to hold the search against: 10%"),
]
_ABBREVIATIONS = {"min": "minute", "h": "hour", "usd": "dollar", "device-min": "device-minute"}


@dataclass(frozen=True)
class Limits:
    """What the user gave in place of the effort's own, by the name of its field in `Settings`."""

    given: Mapping[str, Any] = field(default_factory=dict)

    def also(self, given: Mapping[str, Any]) -> Limits:
        """These and more."""
        return Limits({**self.given, **given})

    def on(self, settings: Settings, *, device: str = "auto", platforms: tuple[str, ...] = ()) -> Settings:
        """`settings` with these.

        Args:
            platforms: that are searched on; what is here is asked only where a limit depends on it.

        Raises:
            UsageError: a value that cannot be, or two that contradict each other.
        """
        made = replace(settings, **self.given)
        refuse_contradictions(made, self.given, device=device != "none")
        if device == "auto" and any(name in self.given for name in of_device(made)):
            refuse_contradictions(made, self.given, absent=public.absent(platforms))
        return made

    def chosen(self, effort: str, *, device: str = "auto", platforms: tuple[str, ...] = ()) -> Settings:
        """The settings of an effort with these."""
        return self.on(settings_for(effort), device=device, platforms=platforms)


def limits(
    *,
    candidates: int | None,
    time: str | None,
    device_time: str | None,
    tokens: int | None,
    money: float | None,
    plateau: int | None,
    target: float | None,
    roofline: float | None,
    value: str | None,
) -> Limits:
    """The limits that were given.

    Raises:
        UsageError: a text that is no time or no value.
    """
    worth = worth_of(value) if value is not None else (None, None)
    read = {
        "candidates": candidates,
        "seconds": places.seconds(time) if time is not None else None,
        "device_seconds": places.seconds(device_time, "--device-time") if device_time is not None else None,
        "tokens": tokens,
        "money_usd": money,
        "plateau": plateau,
        "target": target,
        "roofline": roofline,
        "value": worth[0],
        "value_per": worth[1],
    }
    return Limits({name: given for name, given in read.items() if given is not None})


def controlled(control: str | None) -> dict[str, float]:
    """The field of `Settings` that was given.

    Raises:
        UsageError: a text that is no share.
    """
    if control is None:
        return {}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", control.strip())
    if not match or (not match[2] and float(match[1]) > 1):
        raise UsageError(f"--control {control!r} is no share of the candidates; write 10% or 0.1, at most 50%")
    return {"control": float(match[1]) / (100 if match[2] else 1)}


def worth_of(text: str) -> tuple[float, str]:
    """`1%/minute` as 0.01 and `minute`.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%/([a-z-]+)", text.strip())
    if not match or not float(match[1]) > 0:
        raise UsageError(
            f"--value {text!r} is no gain for a cost; write 1%/minute, 0.5%/candidate, 10%/hour, 1%/device-minute or "
            "5%/dollar"
        )
    return float(match[1]) / 100, _ABBREVIATIONS.get(match[2], match[2])

"""The command that says which models the present keys and addresses can reach, and pings them.

In: names of models and addresses, or neither. Out: a table for people, one result object for scripts. Left to others:
asking (`llm.reach`).
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from kernelevolve import (
    KernelEvolveError,
    checked_model,
    open_model,
    ping_models,
    reachable_models,
    redact,
    to_data,
    to_ping,
)
from kernelevolve.cli.door import Door, Json, door_of, print_lines

_SHOWN = 6
_STYLES = {"ok": "green", "no key": "yellow", "not there": "yellow", "no package": "yellow"}

Names = Annotated[
    list[str] | None,
    typer.Argument(help="PROVIDER:MODEL or ADDRESS:MODEL to look at; default: list what can be reached"),
]
Addresses = Annotated[
    list[str] | None,
    typer.Option("--address", help="an OpenAI-compatible address to list too, such as http://127.0.0.1:8000/v1"),
]


def models(
    context: typer.Context,
    names: Names = None,
    address: Addresses = None,
    ping: Annotated[
        bool, typer.Option("--ping", help="make a real, minimal call of each name, else of one model per service")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="list every model by name")] = False,
    as_json: Json = False,
) -> None:
    """Lists the models that the present keys and addresses can reach; a ping is a real call and says what it cost."""
    door = door_of(context, as_json)
    if not (_named(door, names, ping) if names else _all(door, address or [], ping, everything)):
        raise typer.Exit(KernelEvolveError.exit_code)


def _named(door: Door, names: list[str], ping: bool) -> bool:
    """Looks at the models that were named; whether nothing is wrong with any."""
    prices: dict[str, Any] = {}
    lines = []
    for name in names:
        parsed, options, price = checked_model(name)
        open_model(name)  # says what is missing
        prices[parsed.text] = to_data(price) if price is not None else None
        told = f"price not known: give it as {parsed.text},price_in=N,price_out=N"
        if price is not None:
            told = (
                f"{price.read:g} and {price.written:g} US dollars per million tokens read and written ({price.source})"
            )
        lines.append(f"{parsed.text}: {told}; a call writes at most {options.max_tokens:,} tokens")
    print_lines(door, lines)
    return _finish(door, list(names) if ping else [], {"models": prices})


def _all(door: Door, addresses: list[str], ping: bool, everything: bool) -> bool:
    """Lists what can be reached; whether anything can, and whether what was pinged answered."""
    found = reachable_models(addresses)
    table = Table(box=None, padding=(0, 2), show_header=False)
    for one in found:
        text = Text(one.found)
        if one.remedy:
            text.append(f"\n{one.remedy}", style="dim")
        shown = one.models if everything else one.models[:_SHOWN]
        for offered in shown:
            price = f"{offered.price_in:g} / {offered.price_out:g} USD per M" if offered.price_in is not None else ""
            window = f"{offered.window:,} tokens" if offered.window else ""
            text.append(f"\n{'  '.join(part for part in (offered.name, price, window) if part)}")
        if len(one.models) > len(shown):
            text.append(f"\n... {len(one.models) - len(shown)} more, see them with --all", style="dim")
        table.add_row(
            Text(one.state, style=_STYLES.get(one.state, "red")), Text(one.provider, style="bold"), one.address, text
        )
    door.console.print(table)
    reached = any(one.state == "ok" for one in found)
    if not reached:
        print_lines(
            door, ["no model can be reached; the built-in writer needs none. docs/models.md says how to set one up"]
        )
    listed = [to_data(one) for one in found]
    return _finish(door, list(to_ping(found)) if ping else [], {"services": listed}) and reached


def _finish(door: Door, names: list[str], data: dict[str, Any]) -> bool:
    """Pings what is to be pinged, and ends the output."""
    pinged = ping_models(names) if names else ()
    for one in pinged:
        cost = f"{one.cost.money_usd:.6f} US dollars" if one.priced else "price not known"
        spent = f"{one.cost.tokens_in} tokens read, {one.cost.tokens_out} written, {cost}"
        words = f"answered {one.text!r}" if one.answered else f"{one.kind}: {one.text}"
        print_lines(door, [f"ping {redact(one.name)}: {words} in {one.seconds:.2f} s; {spent}"])
    sound = all(one.answered for one in pinged)
    door.finish({"verdict": None, "correct": sound, **data, "pings": [to_data(one) for one in pinged]})
    return sound

"""What a run's models will cost, and have cost.

In: the graph of a run, its folder. Out: lines of text and plain data. Left to others: prices and the model of a session
(`llm.forecast`), caps (`llm.ledger`), what a single candidate has cost (`writing.spent`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kernelevolve import Evidence, Graph, draft_brief, forecast, forecast_lines, to_data
from kernelevolve.cli.public import settings_of


def expected(folder: Path, graph: Graph) -> list[str]:
    """Before a run's first candidate: what its models are likely and at most to cost; nothing where none answers."""
    created = graph.created
    writers = (created.writer, *created.others)
    models = [str(w.args["model"]) for w in writers if w.name == "model" and w.args.get("model")]
    if not models:
        return []
    prompt = sum(section.tokens for section in draft_brief(folder).sections)
    out = [f"  {line}" for line in forecast_lines(forecast(models, settings_of(graph), prompt))]
    if len(models) < len(writers):
        out.append("    as if the models wrote all of them; the other writers' candidates cost nothing here")
    if {created.settings.get("analysis"), created.settings.get("lookup")} - {"rules", "none", None}:
        out.append("    what the models of --analysis and --lookup cost is not in it; the caps hold for them, too")
    return out


def bill(graph: Graph) -> list[str]:
    """What the models of a run have cost, and what a verified percent came to; nothing where none was called."""
    found = bill_facts(graph)
    if found is None:
        return []
    return [f"  cost         {found['tokens']:,} tokens, {found['money_usd']:.4g} US dollars; {found['said']}"]


def bill_facts(graph: Graph) -> dict[str, Any] | None:
    """The same as data: `per_verified_percent` is in US dollars, None where it cannot be said, and `said` says why.

    A verified percent is one by which the best kernel was *measured* to be faster than the baseline: by what measuring
    it again gave, where that was done, and by the lower end of the interval.
    """
    if not graph.tokens and not graph.money_usd:
        return None
    gain, said = _verified(graph)
    each = graph.money_usd / gain if gain else None
    if each is not None:
        said = f"{each:.3g} US dollars per verified percent, {said}"
    return {"tokens": graph.tokens, "money_usd": graph.money_usd, "per_verified_percent": each, "said": said}


def _verified(graph: Graph) -> tuple[float, str]:
    """Percent by which the best is faster than the baseline, at least, and how that is known; 0 and why not."""
    best, again = graph.best, {}
    if best is None:
        return 0.0, "no candidate is correct, so no percent is verified"
    if graph.result is not None and graph.result.data.get("result"):
        again = {one["node"]: one["fitness"] for one in graph.result.data["again"]}
    figure = again.get(graph.result.data["result"]) if graph.result is not None and again else to_data(best.fitness)
    if figure is None or figure["evidence"] != str(Evidence.MEASURED):
        return 0.0, f"no percent is verified: the best's time is {best.fitness.evidence}"
    low = figure["low"] or figure["value"]
    if low <= 1:
        return 0.0, "no percent is verified: the best is not measurably faster than the baseline"
    how = "measured again in lane accept" if again else "by screen, not measured again"
    return 100 * (low - 1), f"of {100 * (low - 1):.3g} {how}"

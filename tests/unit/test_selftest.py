"""The corpus of the selftest as data, and how its outcomes are counted."""

from __future__ import annotations

import ast
import json

import pytest

from kernelevolve import codec
from kernelevolve.cli import main
from kernelevolve.errors import UnknownName
from kernelevolve.evaluate.check import check_source
from kernelevolve.evaluation import Rung, Verdict
from kernelevolve.selftest import aa
from kernelevolve.selftest.honest import KNOWN_GOOD, RELU_GEMM, at_import, edit, in_forward
from kernelevolve.selftest.matrix import ROWS, UNSHOWN, MatrixReport, Row, Shown, rows_for
from kernelevolve.selftest.outcome import Outcome, Report, line_of
from kernelevolve.selftest.runner import chosen_specimens
from kernelevolve.selftest.specimen import FAMILIES, PROBLEMS, Specimen, read
from kernelevolve.selftest.specimens import corpus
from kernelevolve.selftest.weaken import distributions, guards, without
from kernelevolve.settings import LANES

GUARDS = set(guards())


@pytest.mark.parametrize("specimen", corpus(), ids=lambda s: s.id)
def test_a_specimen_is_a_candidate_of_its_problem(specimen: Specimen) -> None:
    ast.parse(specimen.source)
    assert specimen.family in FAMILIES and specimen.where
    assert not any(v.ok for v in specimen.verdicts), "a verdict that says correct names no fault"
    assert specimen.guard in GUARDS | {""}
    assert specimen.distribution in {*distributions(), ""}
    assert (PROBLEMS / f"{specimen.problem}.py").is_file()
    finding = check_source(specimen.source)
    assert finding.verdict is None or finding.verdict in specimen.verdicts, finding.message
    assert specimen.source != KNOWN_GOOD.get(specimen.problem) or specimen.honest


def test_every_problem_is_read_and_has_a_specimen() -> None:
    names = {p.stem for p in PROBLEMS.glob("*.py")}
    assert {s.problem for s in corpus()} | set(KNOWN_GOOD) >= names
    assert all(read(name).suite == "selftest" for name in names)


def test_every_family_has_specimens_for_cpu_and_gpu() -> None:
    for family in FAMILIES:
        some = [s for s in corpus() if s.family == family]
        assert some
        assert all(any(part in s.where for s in some) for part in ("cpu", "gpu")), family


def test_an_edit_changes_one_place() -> None:
    assert edit("a b", ("a", "c")) == "c b"
    with pytest.raises(ValueError, match="occurs 2 times"):
        edit("a a", ("a", "c"))
    with pytest.raises(ValueError, match="occurs 0 times"):
        edit("a", ("b", "c"))
    assert in_forward(RELU_GEMM, "return x").count("return x\n") == 1
    made = at_import(RELU_GEMM, "import os")
    assert made.index("import os") < made.index("class ModelNew")


def test_specimens_are_chosen_by_id_and_family() -> None:
    assert [s.id for s in chosen_specimens(("A21",))] == ["A21"]
    assert {s.family for s in chosen_specimens(("R", "T"))} == {"R", "T"}
    assert not [s for s in chosen_specimens(on="gpu") if s.where == {"cpu"}]
    with pytest.raises(UnknownName, match="A999"):
        chosen_specimens(("A999",))


def test_a_lane_without_a_guard() -> None:
    weak = without(LANES["accept"], ("overwrite", "clock"))
    assert not {"overwrite", "clock"} & {*weak.structure, *weak.defences}
    assert {*LANES["accept"].structure, *LANES["accept"].defences} - {*weak.structure, *weak.defences} == {
        "overwrite", "clock",
    }  # fmt: skip
    assert without(LANES["accept"], ("hidden-shapes",)).hidden == 0
    fewer = without(LANES["accept"], ("D8", "D12")).distributions
    assert {*LANES["accept"].distributions} - {*fewer} == {"D8", "D12"}
    with pytest.raises(UnknownName, match="no-such-guard"):
        without(LANES["accept"], ("no-such-guard",))


def test_every_guard_and_distribution_has_a_row_or_a_reason_for_having_none() -> None:
    shown = {name for row in ROWS for name in row.guards}
    assert shown | {*UNSHOWN} == {*guards(), *distributions()}
    assert not shown & {*UNSHOWN}
    known = {s.id: s for s in corpus()}
    for row in ROWS:
        assert row.where <= known[row.specimen].where and known[row.specimen].verdicts, row.specimen
        assert not any(v.ok for v in row.then)
    alone = {row.guards[0] for row in ROWS if len(row.guards) == 1 and not row.then}
    assert shown - alone == {"floor", "size-ladder", "declared", "D1"}, "these stop nothing that no other guard stops"


def test_rows_are_chosen_by_guard() -> None:
    assert {r.specimen for r in rows_for(("D12",))} == {"X614"}
    assert {r.guards for r in rows_for(("floor",))} == {("clock", "floor")}
    assert not [r for r in rows_for(on="gpu") if r.where == {"cpu"}]
    with pytest.raises(UnknownName, match="D99"):
        rows_for(("D99",))


def outcome(specimen: Specimen, verdict: Verdict | None) -> Outcome:
    facts = (specimen.id, specimen.family, specimen.title, specimen.verdicts)
    right = verdict is not None and specimen.expects(verdict)
    return Outcome(*facts, verdict, right, Rung.TIME, specimen.guard, (), "said so", 1.0)


CHEAT = Specimen("C", "R", "a cheat", "relu_gemm", RELU_GEMM, (Verdict.REPLAY,))
HONEST = Specimen("L", "honest", "honest", "relu_gemm", RELU_GEMM)
HARMLESS = Specimen("D", "S", "an attack", "relu_gemm", RELU_GEMM)


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([(CHEAT, Verdict.REPLAY), (HONEST, Verdict.OK_SLOWER), (HARMLESS, Verdict.OK_UNTIMED)], True),
        ([(CHEAT, Verdict.REPLAY), (HONEST, Verdict.INCONCLUSIVE)], True),
        ([(CHEAT, Verdict.CRASH)], False),
        ([(CHEAT, Verdict.OK_FASTER)], False),
        ([(HONEST, Verdict.REPLAY)], False),
        ([(HARMLESS, Verdict.LOAD_ERROR)], False),
        ([(CHEAT, None)], False),
        ([], False),
    ],
)
def test_all_or_nothing(found: list[tuple[Specimen, Verdict | None]], right: bool) -> None:
    outcomes = tuple(outcome(s, v) for s, v in found)
    report = Report("a device", "", (), outcomes, (), {}, 1.0)
    assert report.ok is right
    assert [o.id for o in report.through] == [s.id for s, v in found if s is CHEAT and v is Verdict.OK_FASTER]
    assert all(("FAIL" in line_of(o)) is not o.right for o in outcomes)
    assert codec.to_data(report)["outcomes"] == [codec.to_data(o) for o in outcomes]


@pytest.mark.parametrize(
    ("found", "then", "row", "holds"),
    [
        (Verdict.REPLAY, Verdict.OK_SLOWER, Row("C", ("hold",)), True),
        (Verdict.REPLAY, Verdict.REPLAY, Row("C", ("hold",)), False),
        (Verdict.OK_SAME, Verdict.OK_SAME, Row("C", ("hold",)), False),
        (Verdict.CRASH, Verdict.OK_SAME, Row("C", ("hold",)), False),
        (Verdict.REPLAY, Verdict.WRONG_VALUE, Row("C", ("hold",), (Verdict.WRONG_VALUE,)), True),
        (Verdict.REPLAY, Verdict.OK_SAME, Row("C", ("hold",), (Verdict.WRONG_VALUE,)), False),
        (Verdict.REPLAY, None, Row("C", ("hold",)), False),
    ],
)
def test_a_row_holds_where_its_cheat_is_stopped_with_the_guard_and_not_without(
    found: Verdict, then: Verdict | None, row: Row, holds: bool
) -> None:
    shown = Shown(row, outcome(CHEAT, found), outcome(CHEAT, then))
    assert shown.holds is holds and ("FAIL" in shown.line) is not holds
    report = MatrixReport("a device", (shown,), (), UNSHOWN, {}, 1.0)
    assert report.ok is holds
    assert not MatrixReport("a device", (shown,), (row,), UNSHOWN, {}, 1.0).ok
    assert "sanitizer" in report.summary


def test_as_many_claims_as_chance_explains() -> None:
    assert [aa.allowed(n) for n in (1, 10, 50)] == [1, 3, 7]
    # Ten comparisons at 5 %: more than three claims have a probability of 0.1 %, more than two one of 1.2 %.
    assert aa.allowed(10, chance=0.012) == 2


def test_equal_arms_that_drift_are_seldom_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["selftest", "--aa", "--comparisons", "60", "--json"])
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["lane"] for one in result["aa"]] == ["screen", "accept"]
    for one in result["aa"]:
        assert one["evidence"] == "simulated" and one["comparisons"] == 60 and one["claims"] <= one["allowed"] == 7
        assert sum(one["verdicts"].values()) == len(one["half_widths"]) == 60


def test_too_many_claims_end_with_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kernelevolve.evaluate.timing.confidence_of", lambda looks, candidates=1: 0.3)
    with pytest.raises(SystemExit) as ended:
        main(["selftest", "--aa", "--comparisons", "60"])
    assert ended.value.code == 8
    assert "more claims than chance allows" in capsys.readouterr().err


def test_what_was_not_run_is_not_passed() -> None:
    report = Report("a device", "", (), (outcome(CHEAT, Verdict.REPLAY),), (), {}, 1.0, left=("A1",))
    assert not report.ok
    assert "A1" in report.summary


def test_a_control_that_fails_fails_all() -> None:
    good, bad = outcome(CHEAT, Verdict.REPLAY), outcome(HONEST, Verdict.CRASH)
    report = Report("a device", "", (), (good,), (bad,), {}, 1.0)
    assert not report.ok
    assert report.summary == "1 of 1 cheats rejected for the right reason; 0 of 1 honest kernels that passed"

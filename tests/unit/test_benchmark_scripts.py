"""What the scripts for a device do by themselves: the sequence of faults, what an A/A run keeps, what may differ."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kernelevolve import plugins
from kernelevolve.evaluate.check import check_source

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_forty_faults_stand_among_good_candidates() -> None:
    faults = script("faults")
    found = faults.sequence(list(faults.KINDS), 99, 0, False)
    kinds = [one.kind for one in found]
    assert found[0].name == "good 0"
    assert kinds.count("good") >= 12 and kinds.count("wrong") >= 4
    assert len([k for k in kinds if k not in ("good", "wrong")]) == 40
    assert len({one.source for one in found}) == len({one.name for one in found}) == len(found)
    assert all(check_source(one.source).verdict is None for one in found)
    assert [one.name for one in faults.sequence(list(faults.KINDS), 99, 0, False)] == [one.name for one in found]
    marks = [faults.mark_of(one) for one in found if one.ends]
    assert len(set(marks)) == 4 and all(len(m) < 16 and m in "".join(o.source for o in found) for m in marks)
    assert {one.ends for one in found if one.ends} == {"process", "worker", "judge"}
    on_cpu = faults.sequence(list(faults.KINDS), 1, 0, True)
    assert {"good", "wrong", "kills itself", "host memory"} <= {one.kind for one in on_cpu}
    assert "trap" not in {one.kind for one in on_cpu}


def test_what_is_there_as_it_should_be_is_not_run_again(tmp_path: Path) -> None:
    faults = script("faults")
    record = faults.Record(tmp_path / "faults.json")
    record.add({"name": "trap 0", "right": False})
    record.add({"name": "good 0", "right": True})
    again = faults.Record(tmp_path / "faults.json")
    assert again.done() == {"good 0"} and len(again.data["sittings"]) == 2
    again.add({"name": "trap 0", "right": True})
    kept = json.loads((tmp_path / "faults.json").read_text())
    assert {row["name"]: row["right"] for row in kept["rows"]} == {"good 0": True, "trap 0": True}
    assert [p.name for p in tmp_path.iterdir()] == ["faults.json"]


@pytest.fixture
def older() -> dict[str, Any]:
    return json.loads((SCRIPTS / "results" / "aa_h200.json").read_text())["parts"]["200us"]


def test_an_older_file_is_read_as_it_was(older: dict[str, Any]) -> None:
    aa = script("aa")
    written: list[dict[str, Any]] = []
    kept = aa.Kept(aa.PARTS["200us"], older, written.append)
    found = kept.summary()
    assert kept.complete and found["comparisons"] == 50
    for name in ("claims", "verdicts", "half_width", "speedups", "samples", "how"):
        assert found[name] == older[name], name
    assert found["misses"] == found["claims"] == 5 and found["truth"] == 1.0
    assert found["candidate_ms"] == pytest.approx(older["candidate_ms"], rel=1e-3)
    assert found["bias"]["mean"] == pytest.approx(0.0006, abs=1e-5) and len(found["bias"]["pairs"]) == 5
    assert list(found["bias"]["opened first"]) == ["candidate"]


def test_a_part_goes_on_where_it_was_cut_off(older: dict[str, Any]) -> None:
    aa = script("aa")
    cut = {name: older[name][:14] for name in ("speedups", "samples")} | {"seconds": 20.0, "how": older["how"]}
    written: list[dict[str, Any]] = []
    kept = aa.Kept(aa.PARTS["200us"], cut, written.append)
    assert not kept.complete
    assert [kept.room(pair) for pair in range(5)] == [0, 6, 10, 10, 10]
    refused = aa.Failed(aa.judge_ratio(aa.Interval(1.1, 1.05, 1.2)), "no more")
    kept.add(1, "eager", refused, 2.0)
    (found,) = written
    assert found["comparisons"] == 15 and len(found["samples"]) == 14 and found["seconds"] == 22.0
    assert found["verdicts"] == {"OK_FASTER": 1, "OK_SAME": 14}
    assert "not complete" in aa.line("200us", found)
    again = aa.Kept(aa.PARTS["200us"], json.loads(json.dumps(found)), written.append)
    assert again.summary() == found


def test_two_percent_more_work_are_the_truth() -> None:
    aa = script("aa")
    rows = [{"pair": 0, "first": "candidate", "speedup": [0.98, 0.979, 0.982], "verdict": "OK_SLOWER"}]
    found = aa.Kept(aa.PARTS["2%"], {"rows": rows}, lambda data: None).summary()
    assert found["truth"] == pytest.approx(1 / 1.02)
    assert (found["claims"], found["misses"]) == (1, 0)


@pytest.mark.parametrize(
    ("code", "status", "how", "right"),
    [
        (0, "confirmed", ["verdict OK_FASTER"], True),
        (8, "different", ["declared, cold: speedup 2.1 x (2 to 2.2), measured claimed, 2.5 x, measured found"], True),
        (8, "different", ["verdict OK_SAME claimed, OK_SLOWER found"], True),
        (8, "different", ["verdict OK_SAME claimed, WRONG_VALUE found: rms"], False),
        (8, "different", ["guard 'hold': held claimed, failed found"], False),
        (9, "cannot compare", ["another compiler: triton 3.6.0 there, 3.9.0 here"], False),
        (1, "", [], False),
    ],
)
def test_only_times_may_differ(code: int, status: str, how: list[str], right: bool) -> None:
    recheck = script("recheck_gpu")
    assert (recheck.confirmed(code, {"status": status, "how": how}) == "") is right


def test_long_runs_are_summed_up_in_few_figures() -> None:
    scale = script("policies_scale")
    found = scale.summary([0.001 * n for n in range(1, 1001)])
    assert (found["count"], found["most"]) == (1000, 1.0)
    assert found["median"] == pytest.approx(0.5, abs=0.01) and found["p99"] == pytest.approx(0.99, abs=0.01)
    assert sum(count for _, count in found["histogram"]) == 1000
    assert dict(found["histogram"])[1.0] == 500, "those above a half"
    kept = json.loads((SCRIPTS / "results" / "policies_scale_100k.json").read_text())
    assert {row["policy"] for row in kept["rows"]} == set(plugins.names("policies"))
    assert all(row["go_on"]["nodes"] == kept["nodes"] == 100_000 for row in kept["rows"])

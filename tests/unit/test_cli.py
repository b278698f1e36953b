"""The commands, through the same door as a user, on fakes in place of writers and seats."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kernelevolve.cli import main, places, public
from kernelevolve.errors import StoreFull, UsageError
from kernelevolve.problem import Problem
from kernelevolve.runs import read_run
from kernelevolve.store.blobs import Blobs
from kernelevolve.testing import FakeEvaluator, FakeTranslator, fake_equip, fake_folder


class Door:
    """Runs commands and gives what they printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = self._capfd.readouterr()
        code = ended.value.code
        return (0 if code is None else int(code)), out, err

    def result(self, *arguments: object) -> tuple[int, dict[str, Any]]:
        """The exit code and the last line of stdout as JSON."""
        code, out, _ = self(*arguments, "--json")
        return code, json.loads(out.splitlines()[-1])


@pytest.fixture
def door(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Door:
    monkeypatch.chdir(tmp_path)
    fake_folder(tmp_path)
    equip_with(monkeypatch, FakeEvaluator())
    return Door(capfd)


def equip_with(
    monkeypatch: pytest.MonkeyPatch, evaluator: FakeEvaluator, translator: FakeTranslator | None = None
) -> None:
    equip = fake_equip(evaluator, translator)
    monkeypatch.setattr(public, "workshop", lambda problem, device, **more: contextlib.nullcontext(equip))
    monkeypatch.setattr(public, "absent", lambda names: ())


def test_optimize_searches_writes_the_best_kernel_and_says_what_it_found(door: Door, tmp_path: Path) -> None:
    code, out, err = door("optimize", "relu.py", "--effort", "quick", "--candidates", 5, "--out", "r")
    assert code == 0, err
    assert "folder:relu on h100, effort quick, seed 0, in r" in out
    assert sum(line.startswith(f"n{i}") for i in range(5) for line in out.splitlines()) == 5
    assert "kernel       r/best.py" in out
    assert "kernelevolve resume r" in out
    assert (tmp_path / "r" / places.KERNEL).read_text().startswith("# plan")


def test_a_policy_is_chosen_recorded_and_resumed(door: Door, tmp_path: Path) -> None:
    chosen = ("--policy", "mcts:drafts=2,children=3")
    code, out, err = door("optimize", "relu.py", "--candidates", 6, *chosen, "--out", "r")
    assert code == 0, err
    assert "policy mcts (drafts=2, children=3, exploration=0.25, repairs=3)" in out
    assert door("resume", "r", "--candidates", 9)[0] == 0
    graph = read_run(tmp_path / "r")
    assert (graph.created.policy.name, graph.created.policy.args["children"], len(graph.nodes)) == ("mcts", 3, 9)
    assert sum(not node.parents for node in graph.nodes.values()) == 2


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("mctz", "unknown policy 'mctz'; known: beam, best_of_n, greedy, islands, map_elites, mcts"),
        ("mcts:c=1", "unknown parameter of policy mcts 'c'; known: children, drafts, exploration, repairs"),
        ("mcts:children=0", "children=0"),
    ],
)
def test_a_policy_that_cannot_be_chosen_is_refused_before_anything_is_made(
    door: Door, tmp_path: Path, policy: str, says: str
) -> None:
    code, _, err = door("optimize", "relu.py", "--policy", policy, "--out", "r")
    assert code == 2 and says in err and not (tmp_path / "r").exists()


def test_with_json_stdout_is_one_result_object(door: Door) -> None:
    code, out, err = door("optimize", "relu.py", "--candidates", 4, "--out", "r", "--json")
    assert code == 0
    (line,) = out.splitlines()
    data = json.loads(line)
    assert data["correct"] is True
    assert data["verdict"].startswith("OK_")
    assert data["candidates"] == 4
    assert data["fitness"]["evidence"] == "measured"
    assert "n0" in err


def test_several_platforms_are_sibling_runs_that_share_builds(door: Door, tmp_path: Path) -> None:
    code, data = door.result(
        "optimize", "relu.py", "--platform", "h100", "--platform", "mi300x", "--candidates", 3, "--out", "r"
    )
    assert code == 0
    assert list(data["platforms"]) == ["h100", "mi300x"]
    assert data["platform"] == "h100"
    assert (tmp_path / "r" / "builds").is_dir()
    assert (tmp_path / "r" / "mi300x" / places.KERNEL).is_file()


def test_the_same_seed_finds_the_same(door: Door) -> None:
    one = door.result("optimize", "relu.py", "--seed", 7, "--candidates", 4, "--out", "a")[1]
    two = door.result("optimize", "relu.py", "--seed", 7, "--candidates", 4, "--out", "b")[1]
    assert one["fitness"] == two["fitness"]
    assert one["node"] == two["node"]


def test_resume_goes_on_under_wider_limits(door: Door) -> None:
    door("optimize", "relu.py", "--effort", "quick", "--candidates", 3, "--out", "r")
    code, data = door.result("resume", "r", "--candidates", 6)
    assert code == 0
    assert data["candidates"] == 6
    assert data["effort"] == "quick"
    assert door.result("resume", "r")[1]["candidates"] == 6


def test_evaluate_judges_a_kernel_of_ones_own(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("class ModelNew: ...\n")
    equip_with(monkeypatch, FakeEvaluator(faulty=0.0))
    code, data = door.result("evaluate", "mine.py", "--problem", "relu.py", "--out", "good")
    assert (code, data["correct"], data["candidates"]) == (0, True, 1)
    assert data["verdict"] in ("OK_FASTER", "OK_SLOWER")
    equip_with(monkeypatch, FakeEvaluator(faulty=1.0))
    code, data = door.result("evaluate", "mine.py", "--problem", "relu.py", "--out", "bad")
    assert (code, data["correct"], data["verdict"]) == (5, False, "WRONG_VALUE")
    assert "mine.py" in door("show", "good")[1]


def test_a_run_without_a_correct_candidate_exits_with_its_code(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    equip_with(monkeypatch, FakeEvaluator(faulty=1.0))
    code, out, err = door("optimize", "relu.py", "--candidates", 2, "--out", "r", "--json")
    assert code == 5
    data = json.loads(out.splitlines()[-1])
    assert (data["verdict"], data["correct"]) == ("WRONG_VALUE", False)
    assert "error: no correct candidate" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["optimize", "absent.py"], 3, "absent.py: no such file"),
        (["optimize", "recsys:absent"], 2, "unknown problem 'absent'; known: bucketize_by_borders"),
        (["optimize", "nosuite:x"], 2, "unknown suite 'nosuite'; known: folder"),
        (["optimize", "relu"], 2, "'relu' is no .py file and no SUITE:NAME"),
        (["problems", "kernelbench"], 2, "--suite-path"),
        (["optimize", "relu.py", "--platform", "h1"], 2, "unknown platform 'h1'; known: a100, b200, h100"),
        (["optimize", "relu.py", "--platform", "h100", "--platform", "h100"], 2, "given twice"),
        (["optimize", "relu.py", "--effort", "huge"], 2, "unknown effort 'huge'; known: quick, standard, deep"),
        (["optimize", "relu.py", "--time", "soon"], 2, "write 90s, 5m or 2h"),
        (["evaluate", "absent.py", "--problem", "relu.py"], 2, "absent.py cannot be read"),
        (["resume", "nowhere"], 2, "holds no run"),
        (["show", "nowhere"], 2, "holds no run"),
        (["doctor", "--platform", "tpu"], 2, "unknown platform 'tpu'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(door: Door, arguments, code, says) -> None:
    got, out, err = door(*arguments)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert says in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    got, data = door.result(*arguments)
    assert (got, data["correct"]) == (code, False)
    assert says in data["error"]


def test_debug_shows_where_an_error_came_from(door: Door) -> None:
    with pytest.raises(UsageError):
        main(["--debug", "resume", "nowhere"])


def test_an_option_that_does_not_exist_is_a_usage_error(door: Door) -> None:
    code, _, err = door("optimize", "relu.py", "--fast")
    assert code == 2
    assert "--fast" in err
    code, data = door.result("optimize", "relu.py", "--fast")
    assert (code, data["verdict"], data["correct"]) == (2, None, False)


def test_show_prints_the_tree_and_one_node_in_full(door: Door) -> None:
    door("optimize", "relu.py", "--candidates", 4, "--out", "r")
    code, out, _ = door("show", "r")
    assert code == 0
    assert "n0" in out
    assert "n3" in out
    code, out, _ = door("show", "r", "n0")
    assert code == 0
    assert "verdict" in out
    assert "(measured)" in out
    data = door.result("show", "r", "n0")[1]
    assert data["shown"]["evaluation"]["timings"][0]["candidate"]["evidence"] == "measured"
    code, _, err = door("show", "r", "n9")
    assert (code, "unknown node 'n9'; known: n0, n1, n2, n3" in err) == (2, True)


def test_show_of_a_node_prints_what_it_launches_and_names_the_blobs(door: Door, tmp_path: Path) -> None:
    door("optimize", "relu.py", "--candidates", 2, "--out", "r")
    out = door("show", "r", "n0")[1]
    page = out[out.index("launch plan h100 declared: 1 launch, 2 buffers") :]
    rows = [" ".join(line.split()) for line in page.splitlines()]
    assert "buffer role dtype shape stride" in rows
    assert "x input float32 (64) (1)" in rows
    assert any(row.startswith("1. kernel[(") and row.endswith("programs, num_warps=4") for row in rows)
    assert rows[rows.index("argument type value attributes") + 1 :][:4] == [
        "x *fp32 buffer x+0", "y *fp32 buffer y+0", "n i32 64 16", "BLOCK constexpr 64",
    ]  # fmt: skip
    references = door.result("show", "r", "n0")[1]["shown"]["evaluation"]["artefacts"]
    digest = references["launch plan h100 declared"].removeprefix("sha256:")
    (tmp_path / "r" / "blobs" / digest[:2] / digest).unlink()
    code, out, err = door("show", "r", "n0")
    assert code == 6
    assert "verdict" in out, "what the log says is shown all the same"
    assert f"error: 'launch plan h100 declared' of n0: blob sha256:{digest} is missing" in err
    code, data = door.result("show", "r", "n0")
    assert (code, data["shown"]["evaluation"]["artefacts"]) == (6, references)


def test_show_of_a_node_that_failed_prints_the_whole_error(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    equip_with(monkeypatch, FakeEvaluator(faulty=1.0))
    door("optimize", "relu.py", "--candidates", 1, "--out", "r")
    out = door("show", "r", "n0")[1]
    rows = [line.strip() for line in out[out.index("error h100 correct") :].splitlines()]
    assert rows[:2] == ["error h100 correct", "what is wrong with"]
    assert rows[2].startswith("# plan")


def test_a_full_disk_says_the_same_for_a_blob_as_for_the_log(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Blobs, data: bytes) -> str:
        raise StoreFull(f"no room for a blob of {len(data)} bytes in {self.root}; free some space, then resume the run")

    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "put", full)
        code, out, err = door("optimize", "relu.py", "--candidates", 3, "--out", "r")
    assert code == 6
    assert "go on with: kernelevolve resume r" in out
    assert "error: no room for a blob of" in err and "free some space" in err
    assert door.result("resume", "r")[1]["candidates"] == 3


def test_show_of_one_node_among_siblings_asks_which_run(door: Door) -> None:
    door("optimize", "relu.py", "--platform", "h100", "--platform", "b200", "--candidates", 1, "--out", "r")
    assert door("show", "r")[0] == 0
    code, _, err = door("show", "r", "n0")
    assert code == 2
    assert "r/b200" in err
    assert door("show", "r/b200", "n0")[0] == 0


def test_list_shows_the_runs_of_a_folder(door: Door) -> None:
    assert "no runs" in door("list")[1]
    door("optimize", "relu.py", "--candidates", 2)
    door("optimize", "relu.py", "--candidates", 2, "--platform", "h100", "--platform", "b200")
    code, data = door.result("list")
    assert code == 0
    assert [r["platform"] for r in data["runs"]] == ["h100", "b200", "h100"]
    assert "relu" in door("list")[1]


def test_problems_lists_the_suites(door: Door) -> None:
    code, data = door.result("problems")
    assert code == 0
    assert {"folder", "kernelbench", "recsys"} <= set(data["suites"])
    code, out, _ = door("problems", "recsys")
    assert code == 0
    assert "recsys:rms_norm_residual" in out.splitlines()
    assert "folder:relu" in door("problems", "folder", "--suite-path", ".")[1].splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_ctrl_c_ends_cleanly_and_the_run_goes_on_later(
    door: Door, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    equip_with(monkeypatch, FakeEvaluator(seconds=0.05))

    def interrupt() -> None:
        time.sleep(1.0)
        os.kill(os.getpid(), number)

    timer = threading.Thread(target=interrupt)
    timer.start()
    code, out, err = door("optimize", "relu.py", "--candidates", 500, "--effort", "deep", "--out", "r", "--json")
    timer.join()
    assert code == 130
    data = json.loads(out.splitlines()[-1])
    assert 0 < data["candidates"] < 500
    assert data["finished"] is None
    assert "kernelevolve resume r" in err
    code, more = door.result("resume", "r", "--candidates", data["candidates"] + 2)
    assert code == 0
    assert more["candidates"] == data["candidates"] + 2


def test_ctrl_c_while_processes_start_leaves_with_the_same_code(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(problem: Problem, device: str) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(public, "workshop", pressed)
    code, data = door.result("optimize", "relu.py", "--out", "r")
    assert (code, data["correct"], data["error"]) == (130, False, "interrupted")


def test_a_lost_machine_says_how_to_go_on(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    equip_with(monkeypatch, FakeEvaluator(lost=1.0))
    code, out, err = door("optimize", "relu.py", "--out", "r", "--json")
    assert code == 7
    assert json.loads(out.splitlines()[-1])["verdict"] == "INFRA"
    assert "go on with: kernelevolve resume r" in err
    equip_with(monkeypatch, FakeEvaluator())
    assert door.result("resume", "r", "--candidates", 3)[0] == 0


def test_help_names_every_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kernelevolve", "--help"], capture_output=True, text=True, check=True)
    for command in ("optimize", "resume", "evaluate", "show", "list", "doctor", "problems"):
        assert command in done.stdout
    assert "Linux" in done.stdout


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_times(text: str, seconds: float) -> None:
    assert places.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "5 days", "m"])
def test_texts_that_are_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="write 90s"):
        places.seconds(text)


def test_a_new_folder_never_meets_an_old_one(tmp_path: Path) -> None:
    problem = Problem("p", "folder", "p.py", "")
    first = places.new_folder(problem, tmp_path)
    first.mkdir()
    assert places.new_folder(problem, tmp_path) != first


def test_those_who_begin_in_the_same_moment_get_folders_of_their_own(tmp_path: Path) -> None:
    problem = Problem("p", "folder", "p.py", "")
    together = threading.Barrier(8)

    def begin(_: int) -> Path:
        together.wait()
        with places.claimed(problem, tmp_path / "runs") as folder:
            (folder / "log.sqlite").touch()
            return folder

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(begin, range(8)))
    assert len(set(found)) == 8
    with pytest.raises(KeyboardInterrupt), places.claimed(problem, tmp_path) as folder:
        raise KeyboardInterrupt
    assert not folder.exists(), "an empty one is left to nobody"


def test_a_run_ends_by_the_users_limits_and_prints_the_figures_behind_it(door: Door) -> None:
    code, out, err = door("optimize", "relu.py", "--out", "r", "--target", "0.1", "--candidates", 30)
    assert code == 0, err
    assert "ended: target 0.1x reached" in out
    assert "fitness: " in out
    code, data = door.result("resume", "r", "--candidates", 5, "--target", 1000)
    assert (code, data["ended"]["rule"], data["ended"]["figures"]["candidates"]["value"]) == (0, "candidates", 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plateau", 20, "--candidates", 10), "a plateau of 20 cannot be reached within 10 candidates"),
        (("--device-time", "2h", "--time", "1h"), "7200 s of device time cannot be spent in 3600 s of work"),
        (("--device", "none", "--device-time", "5m"), "without a device a limit on device time is never reached"),
        (("--device", "none", "--target", 2), "a target of 2.0x needs measured times"),
        (("--device-time", "soon"), "--device-time 'soon' is no time"),
        (("--value", "much"), "--value 'much' is no gain for a cost"),
        (("--value", "1%/week"), "value_per = 'week'; known: candidate, minute"),
        (("--roofline", 2), "roofline = 2; nothing is faster than the floor"),
        (("--money", -1), "money_usd = -1.0; it must be above 0"),
    ],
)
def test_limits_that_cannot_hold_are_refused_before_anything_is_spent(
    door: Door, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    code, _, err = door("optimize", "relu.py", "--out", "r", *options)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device-time", "5m"), "without a device a limit on device time is never reached"),
        (("--target", 2), "without a device a target of 2.0x needs measured times"),
        (("--value", "1%/device-minute"), "without a device nothing costs device time"),
    ],
)
def test_limits_of_a_device_are_refused_where_the_platform_is_not_here(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], message: str
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(public, "absent", lambda names: asked.append(names) or ("mi300x",))
    both = ("--platform", "h100", "--platform", "mi300x")
    code, _, err = door("optimize", "relu.py", "--out", "r", *both, *options)
    assert (code, f"there is no mi300x here, and {message}; leave one of the two out" in err) == (2, True), err
    assert not (tmp_path / "r").exists() and asked == [("h100", "mi300x")]
    assert door("optimize", "relu.py", "--out", "r", "--candidates", 3, "--value", "1%/minute")[0] == 0
    code, _, err = door("resume", "r", "--candidates", 4, *options)
    assert code == 2 and message in err and len(read_run(tmp_path / "r").nodes) == 3
    assert asked == [("h100", "mi300x"), ("h100",)], "what is here is asked only where a limit depends on it"


def test_what_briefs_remember_is_chosen_and_recorded(door: Door) -> None:
    assert door("optimize", "relu.py", "--out", "runs/a", "--candidates", 3)[0] == 0
    options = ("--memory", "none,both", "--earlier", "runs", "--recall", "0:1")
    code, _, err = door("optimize", "relu.py", "--out", "b", "--candidates", 3, *options)
    assert code == 0, err
    settings = read_run(Path("b")).created.settings
    assert (settings["memory"], settings["recall"]) == (["none", "both"], [0.0, 1.0])
    assert any(note.topic == "earlier" for note in read_run(Path("b")).notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "some"), "memory = some; known: none, trajectory, siblings, both"),
        (("--recall", "0.1:0.5"), "give their folder: --earlier"),
        (("--recall", "often", "--earlier", "."), "--recall 'often' is no schedule"),
        (("--earlier", "nowhere"), "nowhere holds no run"),
    ],
)
def test_memory_that_cannot_be_is_refused(door: Door, options: tuple[object, ...], message: str) -> None:
    code, _, err = door("optimize", "relu.py", "--out", "r", *options)
    assert (code, message in err) == (2, True), err


def test_writers_and_seats_are_chosen_recorded_and_widened(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = FakeEvaluator(seconds=0.005)
    equip_with(monkeypatch, evaluator, FakeTranslator(moves=20))
    chosen = ("--parallel", "6:3", "--answer-time", "2m", "--candidates", 20, "--plateau", 19)
    assert door("optimize", "relu.py", *chosen, "--out", "r")[0] == 0
    kept = read_run(Path("r")).settings
    assert [kept[name] for name in ("writers", "seats", "waiting", "answer_seconds")] == [6, 3, None, 120]
    assert evaluator.most_busy == 3
    assert door("resume", "r", "--candidates", 40, "--plateau", 39, "--parallel", "2:1:0")[0] == 0
    kept = read_run(Path("r")).settings
    assert [kept[name] for name in ("writers", "seats", "waiting", "answer_seconds")] == [2, 1, 0, 120]


@pytest.mark.parametrize(
    ("option", "text"), [("--parallel", "6"), ("--parallel", "0:1"), ("--parallel", "a:b"), ("--answer-time", "soon")]
)
def test_sides_that_cannot_be_are_refused(door: Door, option: str, text: str) -> None:
    code, _, err = door("optimize", "relu.py", option, text, "--out", "r")
    assert code == 2 and option in err and text in err
    assert not Path("r").exists()


def test_writers_and_the_chooser_are_recorded_and_what_they_earned_is_shown(door: Door) -> None:
    code, out, err = door("optimize", "relu.py", "--out", "r", "--candidates", 6, "--choose", "bandit:hourly=4")
    assert code == 0, err
    assert "policy greedy (drafts=2, repairs=3), writer built-in, by bandit (weight=2.0, hourly=4)" in out
    assert "arms         by bandit; gains over the parent beyond noise" in out
    assert "built-in, own choice (draft): " in out
    assert read_run(Path("r")).created.chooser.args == {"weight": 2.0, "hourly": 4}
    code, data = door.result("show", "r")
    assert data["chooser"]["name"] == "bandit" and sum(arm["answers"] for arm in data["arms"]) == 6
    code, out, err = door("optimize", "relu.py", "--out", "s", "--candidates", 3)
    assert code == 0 and "arms  " not in out and "writer" not in out, err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--choose", "luck"), "unknown chooser 'luck'; known: bandit, first"),
        (("--writer", "someone"), "unknown writer 'someone'; known: built-in"),
        (("--writer", "built-in", "--writer", "built-in"), "writers must have different names"),
    ],
)
def test_writers_that_cannot_be_are_refused(
    door: Door, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    code, _, err = door("optimize", "relu.py", "--out", "r", *options)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "r").exists()


def test_a_warm_start_says_what_it_took_and_never_calls_it_a_find_of_the_search(door: Door, tmp_path: Path) -> None:
    assert door("optimize", "relu.py", "--out", "runs/a", "--candidates", 8)[0] == 0
    best = read_run(tmp_path / "runs" / "a").best
    assert best is not None
    options = ("--warm-start", "auto", "--recall", "1:1", "--policy", "best_of_n")
    code, out, err = door("optimize", "relu.py", "--out", "runs/b", "--candidates", 4, *options)
    assert code == 0, err
    graph = read_run(tmp_path / "runs" / "b")
    run = read_run(tmp_path / "runs" / "a").created.run
    assert f"warm start   1 candidate from run {run} (same problem, h100): {best.id} {best.fitness.value:.3g}x" in out
    assert f"{run}/{best.id}: n0 " in out and f"n0 best: {best.fitness.value:.2f}x" in out
    assert f"from run {run}, {best.id}: " in out
    assert f"taken over from run {run}, {best.id}" in out
    assert "the search found nothing faster than the best seed, n0; its own best is " in out
    assert {"earlier", "warm-start"} <= {note.topic for note in graph.notes}
    code, data = door.result("show", "runs/b")
    warm = data["warm_start"]
    assert (warm["best_seed"], warm["found_better"], warm["seeds"][0]["node"]) == ("n0", False, "n0")
    assert warm["seeds"][0]["fitness"]["value"] == pytest.approx(best.fitness.value)
    assert door.result("show", "runs/a")[1]["warm_start"] is None


@pytest.mark.parametrize("named", ["nowhere", "."])
def test_a_warm_start_from_no_run_is_refused(door: Door, tmp_path: Path, named: str) -> None:
    code, _, err = door("optimize", "relu.py", "--out", "r", "--warm-start", named)
    assert code == 2 and f"warm start: {named} holds no run; give the folder of a run, or auto, or none" in err
    assert not (tmp_path / "r").exists()

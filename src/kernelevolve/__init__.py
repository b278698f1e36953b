"""KernelEvolve: searches for the fastest GPU kernel that can be proven correct, from a PyTorch reference.

These are the public names; whatever is not listed may change. A name is imported when it is first used, so that
`import kernelevolve` is quick and imports neither torch nor a database.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernelevolve import plugins as plugins
    from kernelevolve.briefs import BriefsReplayed as BriefsReplayed
    from kernelevolve.briefs import Difference as Difference
    from kernelevolve.briefs import draft_brief as draft_brief
    from kernelevolve.briefs import read_brief as read_brief
    from kernelevolve.briefs import replay_briefs as replay_briefs
    from kernelevolve.candidate import Brief as Brief
    from kernelevolve.candidate import Candidate as Candidate
    from kernelevolve.candidate import Cost as Cost
    from kernelevolve.candidate import Knobs as Knobs
    from kernelevolve.candidate import Section as Section
    from kernelevolve.codec import from_data as from_data
    from kernelevolve.codec import to_data as to_data
    from kernelevolve.deferred import on_demand as on_demand
    from kernelevolve.equipment import Workshop as Workshop
    from kernelevolve.equipment import absent_platforms as absent_platforms
    from kernelevolve.errors import BudgetSpent as BudgetSpent
    from kernelevolve.errors import CannotCompare as CannotCompare
    from kernelevolve.errors import KernelEvolveError as KernelEvolveError
    from kernelevolve.errors import LateAnswer as LateAnswer
    from kernelevolve.errors import MachineError as MachineError
    from kernelevolve.errors import MissingDevice as MissingDevice
    from kernelevolve.errors import ModelFault as ModelFault
    from kernelevolve.errors import NoCorrectCandidate as NoCorrectCandidate
    from kernelevolve.errors import NoMovesLeft as NoMovesLeft
    from kernelevolve.errors import NotConfirmed as NotConfirmed
    from kernelevolve.errors import PluginFault as PluginFault
    from kernelevolve.errors import ProblemError as ProblemError
    from kernelevolve.errors import RunBusy as RunBusy
    from kernelevolve.errors import SeatLost as SeatLost
    from kernelevolve.errors import StaleLease as StaleLease
    from kernelevolve.errors import StoreError as StoreError
    from kernelevolve.errors import StoreFull as StoreFull
    from kernelevolve.errors import StoreTooNew as StoreTooNew
    from kernelevolve.errors import UncoveredOp as UncoveredOp
    from kernelevolve.errors import UnknownName as UnknownName
    from kernelevolve.errors import UsageError as UsageError
    from kernelevolve.errors import WriterError as WriterError
    from kernelevolve.evaluate.receipt import receipt_of as receipt_of
    from kernelevolve.evaluate.replay import Replayed as Replayed
    from kernelevolve.evaluation import Buffer as Buffer
    from kernelevolve.evaluation import Check as Check
    from kernelevolve.evaluation import Correctness as Correctness
    from kernelevolve.evaluation import Evaluation as Evaluation
    from kernelevolve.evaluation import Evidence as Evidence
    from kernelevolve.evaluation import Figure as Figure
    from kernelevolve.evaluation import Guard as Guard
    from kernelevolve.evaluation import Launch as Launch
    from kernelevolve.evaluation import LaunchPlan as LaunchPlan
    from kernelevolve.evaluation import Resources as Resources
    from kernelevolve.evaluation import Rung as Rung
    from kernelevolve.evaluation import RungReport as RungReport
    from kernelevolve.evaluation import Samples as Samples
    from kernelevolve.evaluation import Timing as Timing
    from kernelevolve.evaluation import Verdict as Verdict
    from kernelevolve.events import Component as Component
    from kernelevolve.events import Dropped as Dropped
    from kernelevolve.events import Entry as Entry
    from kernelevolve.events import Finished as Finished
    from kernelevolve.feed import Feed as Feed
    from kernelevolve.feed import Stage as Stage
    from kernelevolve.graph import Graph as Graph
    from kernelevolve.graph import Pending as Pending
    from kernelevolve.hardware import HardwareFigures as HardwareFigures
    from kernelevolve.hardware import Target as Target
    from kernelevolve.knowledge.article import Article as Article
    from kernelevolve.knowledge.faults import library_faults as library_faults
    from kernelevolve.knowledge.library import Library as Library
    from kernelevolve.knowledge.library import open_library as open_library
    from kernelevolve.llm.forecast import Forecast as Forecast
    from kernelevolve.llm.forecast import forecast as forecast
    from kernelevolve.llm.forecast import forecast_lines as forecast_lines
    from kernelevolve.llm.ledger import Ledger as Ledger
    from kernelevolve.llm.models import checked_model as checked_model
    from kernelevolve.llm.models import open_model as open_model
    from kernelevolve.llm.reach import ping_models as ping_models
    from kernelevolve.llm.reach import reachable_models as reachable_models
    from kernelevolve.llm.reach import to_ping as to_ping
    from kernelevolve.llm.secrets import redact as redact
    from kernelevolve.node import Node as Node
    from kernelevolve.problem import Problem as Problem
    from kernelevolve.problem import Workload as Workload
    from kernelevolve.problem import read_problem as read_problem
    from kernelevolve.propose import Answer as Answer
    from kernelevolve.propose.diagnose import LIMITS as LIMITS
    from kernelevolve.propose.model import model_named as model_named
    from kernelevolve.propose.warm import seeds_of as seeds_of
    from kernelevolve.race.landscape import Landscape as Landscape
    from kernelevolve.race.landscape import read_landscape as read_landscape
    from kernelevolve.race.laps import Course as Course
    from kernelevolve.race.laps import Lap as Lap
    from kernelevolve.race.laps import RacePlan as RacePlan
    from kernelevolve.race.live import live_course as live_course
    from kernelevolve.race.plot import race_svg as race_svg
    from kernelevolve.race.race import Race as Race
    from kernelevolve.race.race import is_recorded as is_recorded
    from kernelevolve.race.race import recorded_courses as recorded_courses
    from kernelevolve.race.race import run_race as run_race
    from kernelevolve.race.record import RecordingOrder as RecordingOrder
    from kernelevolve.race.record import record_landscape as record_landscape
    from kernelevolve.race.standings import Heat as Heat
    from kernelevolve.race.standings import Need as Need
    from kernelevolve.receipt import Failure as Failure
    from kernelevolve.receipt import Receipt as Receipt
    from kernelevolve.receipt import read_receipt as read_receipt
    from kernelevolve.receipt import write_receipt as write_receipt
    from kernelevolve.recheck import Verified as Verified
    from kernelevolve.recheck import replay_failure as replay_failure
    from kernelevolve.recheck import verify as verify
    from kernelevolve.run import Equipment as Equipment
    from kernelevolve.run import Run as Run
    from kernelevolve.runs import create_run as create_run
    from kernelevolve.runs import holds_run as holds_run
    from kernelevolve.runs import open_run as open_run
    from kernelevolve.runs import optimize as optimize
    from kernelevolve.runs import read_artefacts as read_artefacts
    from kernelevolve.runs import read_run as read_run
    from kernelevolve.runs import save_receipt as save_receipt
    from kernelevolve.runs import tail as tail
    from kernelevolve.runs import writers_named as writers_named
    from kernelevolve.seal.layers import Layer as Layer
    from kernelevolve.seal.offered import seal_layers as seal_layers
    from kernelevolve.search.arms import Arm as Arm
    from kernelevolve.search.arms import Earned as Earned
    from kernelevolve.search.arms import earnings as earnings
    from kernelevolve.search.bandit import chooser_named as chooser_named
    from kernelevolve.search.choosing import policy_named as policy_named
    from kernelevolve.search.control import compare_with_control as compare_with_control
    from kernelevolve.selftest.aa import run_aa as run_aa
    from kernelevolve.selftest.matrix import rows_for as rows_for
    from kernelevolve.selftest.matrix import run_matrix as run_matrix
    from kernelevolve.selftest.runner import chosen_specimens as chosen_specimens
    from kernelevolve.selftest.runner import run_selftest as run_selftest
    from kernelevolve.settings import Settings as Settings
    from kernelevolve.settings import lane_for as lane_for
    from kernelevolve.settings import of_device as of_device
    from kernelevolve.settings import refuse_contradictions as refuse_contradictions
    from kernelevolve.settings import settings_for as settings_for
    from kernelevolve.steer import Delivered as Delivered
    from kernelevolve.steer import Notes as Notes
    from kernelevolve.steer import add_note as add_note
    from kernelevolve.steer import cancel_brief as cancel_brief
    from kernelevolve.steer import clear_notes as clear_notes
    from kernelevolve.steer import notes_of_run as notes_of_run
    from kernelevolve.store.artefacts import Artefacts as Artefacts
    from kernelevolve.suites import load_problem as load_problem
    from kernelevolve.suites import open_suite as open_suite
    from kernelevolve.tools import Report as Report
    from kernelevolve.tools import Tools as Tools

_PLACES = {
    "from_data": "codec",
    "Answer": "propose",
    "Arm": "search.arms",
    "Artefacts": "store.artefacts",
    "Article": "knowledge.article",
    "Brief": "candidate",
    "BudgetSpent": "errors",
    "Buffer": "evaluation",
    "Candidate": "candidate",
    "CannotCompare": "errors",
    "Check": "evaluation",
    "Component": "events",
    "Correctness": "evaluation",
    "Cost": "candidate",
    "Earned": "search.arms",
    "Dropped": "events",
    "Entry": "events",
    "Equipment": "run",
    "Evaluation": "evaluation",
    "Evidence": "evaluation",
    "Failure": "receipt",
    "Feed": "feed",
    "Figure": "evaluation",
    "Finished": "events",
    "Graph": "graph",
    "Guard": "evaluation",
    "HardwareFigures": "hardware",
    "KernelEvolveError": "errors",
    "LateAnswer": "errors",
    "Knobs": "candidate",
    "Launch": "evaluation",
    "LaunchPlan": "evaluation",
    "LIMITS": "propose.diagnose",
    "Layer": "seal.layers",
    "Library": "knowledge.library",
    "MachineError": "errors",
    "MissingDevice": "errors",
    "ModelFault": "errors",
    "NoCorrectCandidate": "errors",
    "NoMovesLeft": "errors",
    "Node": "node",
    "NotConfirmed": "errors",
    "Pending": "graph",
    "PluginFault": "errors",
    "Problem": "problem",
    "ProblemError": "errors",
    "Receipt": "receipt",
    "Report": "tools",
    "Replayed": "evaluate.replay",
    "Resources": "evaluation",
    "Run": "run",
    "RunBusy": "errors",
    "Rung": "evaluation",
    "RungReport": "evaluation",
    "Samples": "evaluation",
    "SeatLost": "errors",
    "Section": "candidate",
    "Settings": "settings",
    "Stage": "feed",
    "StaleLease": "errors",
    "StoreError": "errors",
    "StoreFull": "errors",
    "StoreTooNew": "errors",
    "Target": "hardware",
    "Timing": "evaluation",
    "Tools": "tools",
    "UncoveredOp": "errors",
    "UnknownName": "errors",
    "UsageError": "errors",
    "Verdict": "evaluation",
    "Verified": "recheck",
    "Workload": "problem",
    "Workshop": "equipment",
    "WriterError": "errors",
    "absent_platforms": "equipment",
    "chooser_named": "search.bandit",
    "chosen_specimens": "selftest.runner",
    "create_run": "runs",
    "earnings": "search.arms",
    "holds_run": "runs",
    "lane_for": "settings",
    "library_faults": "knowledge.faults",
    "load_problem": "suites",
    "model_named": "propose.model",
    "of_device": "settings",
    "open_library": "knowledge.library",
    "on_demand": "deferred",
    "open_run": "runs",
    "open_suite": "suites",
    "optimize": "runs",
    "plugins": "plugins",
    "policy_named": "search.choosing",
    "read_artefacts": "runs",
    "read_problem": "problem",
    "read_receipt": "receipt",
    "read_run": "runs",
    "receipt_of": "evaluate.receipt",
    "replay_failure": "recheck",
    "refuse_contradictions": "settings",
    "save_receipt": "runs",
    "seal_layers": "seal.offered",
    "rows_for": "selftest.matrix",
    "run_aa": "selftest.aa",
    "run_matrix": "selftest.matrix",
    "run_selftest": "selftest.runner",
    "seeds_of": "propose.warm",
    "settings_for": "settings",
    "tail": "runs",
    "to_data": "codec",
    "verify": "recheck",
    "write_receipt": "receipt",
    "notes_of_run": "steer",
    "clear_notes": "steer",
    "cancel_brief": "steer",
    "add_note": "steer",
    "Notes": "steer",
    "Delivered": "steer",
    "replay_briefs": "briefs",
    "read_brief": "briefs",
    "draft_brief": "briefs",
    "Difference": "briefs",
    "BriefsReplayed": "briefs",
    "compare_with_control": "search.control",
    "Need": "race.standings",
    "Heat": "race.standings",
    "record_landscape": "race.record",
    "RecordingOrder": "race.record",
    "run_race": "race.race",
    "recorded_courses": "race.race",
    "is_recorded": "race.race",
    "Race": "race.race",
    "race_svg": "race.plot",
    "live_course": "race.live",
    "RacePlan": "race.laps",
    "Lap": "race.laps",
    "Course": "race.laps",
    "read_landscape": "race.landscape",
    "Landscape": "race.landscape",
    "writers_named": "runs",
    "Forecast": "llm.forecast",
    "forecast": "llm.forecast",
    "forecast_lines": "llm.forecast",
    "Ledger": "llm.ledger",
    "checked_model": "llm.models",
    "open_model": "llm.models",
    "ping_models": "llm.reach",
    "reachable_models": "llm.reach",
    "to_ping": "llm.reach",
    "redact": "llm.secrets",
}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'kernelevolve' has no attribute {name!r}; public names: {', '.join(__all__)}")
    module = import_module(f"kernelevolve.{_PLACES[name]}")
    value = module if name == _PLACES[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)

"""Running a candidate on drawn inputs: under the interpreter on the CPU, or on a device.

In: an `Opened` (problem at one size, candidate, device) and Cases. Out: outputs as bytes or CUDA IPC handles, and what
happened to the inputs. Left to others: what the outputs should be (`judge`), how launches run on the CPU (`interpret`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve.evaluation import Verdict
from kernelevolve.protocol import Case, Opened, Placement
from kernelevolve.tensors import call, draw, load, outputs
from kernelevolve.worker import structure
from kernelevolve.worker.census import Census
from kernelevolve.worker.fault import Fault, blame
from kernelevolve.worker.load import build_candidate, choose, load_candidate

_clock = time.perf_counter  # looked up before foreign code runs
MOST_BACK = 150  # a message carries 200 pieces of memory

Context = Callable[[], AbstractContextManager[Any]]


class Runner:
    """One candidate, constructed and ready to be called on one device."""

    def __init__(self, opened: Opened, context: Context) -> None:
        """Loads and constructs the candidate.

        Args:
            context: entered around everything that runs the candidate's code; gives what can report about it.

        Raises:
            Fault: the file or the constructor fails.
        """
        self.opened, self.context = opened, context
        self.device = opened.device
        self.stage = structure.Stage(self.device)
        load.set_precision(opened.precision)
        self.before = structure.process_state(self.device)
        self.operators = structure.operators()
        self.problem = load.load_module(opened.description.variant.source)
        with load.seeded(opened.module_seed):
            init = self.problem.get_init_inputs()
        with context():
            self.module = load_candidate(opened.candidate, opened.choice)
            model = build_candidate(self.module, init, opened.module_seed, "cpu")
        self.model = load.prepare(model, device=self.device, precision=opened.precision, mode=opened.mode)
        self.before["random state"] = "kept"  # constructing it may draw
        self.random_state = structure.RandomState(self.device)
        self._built = {name: tensor.detach().clone() for name, tensor in self._state()}
        self._forwards = 0

    def _state(self) -> list[tuple[str, Any]]:
        return [*self.model.named_parameters(), *self.model.named_buffers()]

    def choose(self, choice: dict[str, Any]) -> None:
        """Other values for the knobs from the next call on."""
        choose(self.module, choice)

    def arguments(self, case: Case) -> list[Any]:
        """Draws state and inputs of `case`; the state goes into the model.

        Raises:
            Fault: `WRONG_META` when the candidate lacks a parameter of the reference.
        """
        with torch.no_grad():
            for name, tensor in self._state():
                tensor.copy_(self._built[name])
        with structure.as_before(self.before):
            drawn = draw.draw_state(self.opened.description.state, case, self.device)
        absent = draw.apply_state(self.model, drawn)
        if absent:
            raise Fault(
                Verdict.WRONG_META,
                f"the candidate has no parameter or buffer {absent[0]!r} of the reference's shape; ModelNew.__init__ "
                "must repeat the reference's own parameters and names",
            )
        return self.inputs(case)

    def inputs(self, case: Case) -> list[Any]:
        """Draws the inputs of `case` alone."""
        needs_grad = self.opened.direction != "forward"
        with structure.as_before(self.before):
            return draw.draw_inputs(self.opened.description, case, self.device, self.problem, requires_grad=needs_grad)

    def call(
        self, case: Case, state: Sequence[str] = (), how: Placement | None = None
    ) -> tuple[list[tuple[str, Any]], list[str]]:
        """The candidate's named output leaves for `case`, and the names of inputs and parameters that it changed.

        `early` then has their values as they were when the call returned, `forbidden` the ops that it ran beside
        kernels, `aliases` the outputs that share an input's memory, `back` what `how` wants sent back, `seconds` how
        long it took, results copied.

        Args:
            state: buffers and inputs that the reference changes, as `state:NAME` and `input:NAME`; they count as
                outputs.
            how: where the inputs lie; the call is the same for all.
        """
        how = how or Placement()
        specs = self.opened.description
        arguments = self.stage.placed(self.arguments(case), [s.name for s in specs.inputs], how)
        watched = self._named(arguments)
        before = [
            (n, t, digest(t)) for n, t in (*watched, *self.model.named_parameters()) if isinstance(t, torch.Tensor)
        ]
        structure.poison_pool([(o.shape, outputs.dtype_of(o.dtype)) for o in specs.outputs], how.fill, self.device)
        self._forwards += 1  # a repeated call draws other numbers
        self.random_state.begin(draw.stream_seed(case.seed, f"forward/{self._forwards}"))
        begun = _clock()
        with self.context() as self.recorder, self._census() as census:
            if self.recorder is not None and how.fill is not None:
                self.recorder.fill = draw.generator(how.fill, "fill", "cpu")
            try:
                leaves = self.guarded(lambda: self._leaves(arguments, case, state))
            except Fault as fault:
                fault.refused = fault.refused and not (self.recorder is not None and self.recorder.launches)
                raise
        self.seconds = _clock() - begun
        self.random_state.end()
        results = [leaf for path, leaf in leaves if path.startswith("out")]
        self.forbidden = census.forbidden([leaf for _, leaf in watched], results) if census is not None else []
        self.aliases = outputs.shared_memory([(path, leaf) for path, leaf in leaves if path.startswith("out")], watched)
        changed = [name for name, tensor, was in before if digest(tensor) != was]
        self.back = self._back(watched) if how.back else []
        if how.hold:
            self.stage.held.append([(path, leaf) for path, leaf in leaves if path.startswith(("out", "grad:"))])
        return leaves, changed

    def opcheck(self, case: Case) -> dict[str, str]:
        """What `torch.library.opcheck` has against each operator that the candidate registered and `case` calls."""
        own = structure.operators() - self.operators
        if not own:
            return {}
        arguments, seen = self.arguments(case), structure.Calls(own)
        with self.context():
            with seen:
                self.guarded(lambda: self._leaves(arguments, case, ()))
            return {name: structure.opcheck(*one) for name, one in seen.calls.items()}

    def _back(self, watched: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Inputs, state and guard bands after a call, as the judge wants to see them."""
        given = [(f"given:{name}", leaf) for name, leaf in watched if isinstance(leaf, torch.Tensor)]
        return [*given, *((f"kept:{name}", leaf) for name, leaf in self._state()), *self.stage.bands()][:MOST_BACK]

    def _census(self) -> AbstractContextManager[Census | None]:
        """What was planned on meta tensors need not be what runs on real ones; autograd's own ops are not looked at."""
        return Census() if self.opened.direction == "forward" else nullcontext()

    def _leaves(self, arguments: list[Any], case: Case, state: Sequence[str]) -> list[tuple[str, Any]]:
        cotangents = draw.draw_cotangents(case, self.device)
        leaves = call.run(self.model, arguments, self.opened.direction, cotangents)
        held = {f"state:{name}": tensor for name, tensor in self.model.named_buffers()}
        held |= {f"input:{name}": leaf for name, leaf in self._named(arguments)}
        found = [*leaves, *((name, held[name]) for name in state if name in held)]
        self.early = structure.snapshot(found)
        return found

    def timed(self, case: Case) -> Callable[..., Any]:
        """What one timed call runs: the same as a baseline's, gradients included where the problem asks for them; they
        start from the cotangents of `case`."""
        return call.timed(self.model, self.opened.direction, draw.draw_cotangents(case, self.device))

    def _named(self, arguments: list[Any]) -> list[tuple[str, Any]]:
        """The leaves of the arguments by the reference's names: the candidate may call its own otherwise."""
        leaves = pytree.tree_leaves(arguments)
        return [(spec.name, leaf) for spec, leaf in zip(self.opened.description.inputs, leaves, strict=True)]

    def guarded(self, work: Callable[[], Any]) -> Any:
        """See `guarded`, on this device."""
        return guarded(work, self.device)


def guarded(work: Callable[[], Any], device: str) -> Any:
    """`work()` with whatever the candidate's code raises turned into its fault."""
    try:
        result = work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return result
    except Fault:
        raise
    except (Exception, SystemExit) as error:
        raise blame(error, _verdict_of(error)) from error


def _verdict_of(error: BaseException) -> Verdict:
    name = type(error).__name__
    if name in ("OutOfBounds", "IndexOverflow", "Misaligned", "InvalidDescriptor", "AssumptionFailed"):
        return Verdict.MEM_RACE
    if name in ("CannotBeSeen", "TooManyPrograms", "UnansweredDevice"):
        return Verdict.INCONCLUSIVE  # the interpreter's limit and not the candidate's fault: not judged here
    if name in ("CompilationError", "CompileTimeAssertionFailure", "OutOfResources", "PTXASError"):
        return Verdict.COMPILE_ERROR
    return Verdict.CRASH


def digest(tensor: Any) -> Any:
    """A fingerprint of a tensor's bytes: SHA-256 on the CPU, a sum of 64-bit words and positions on a device."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    if flat.device.type == "cpu":
        return hashlib.sha256(memoryview(flat.numpy())).hexdigest()
    return word_sum(flat)


def word_sum(flat: Any, piece: int = 1 << 28) -> int:
    """A sum, modulo 2^64, over 64-bit words, each times an odd number of its own.

    Args:
        flat: bytes in one row, wherever in their storage they begin; the last word is filled up with zeros.
        piece: bytes that are summed at once, a multiple of 8.
    """
    total = 0
    for start in range(0, flat.numel(), piece):
        part = flat[start : start + piece]
        if part.storage_offset() % 8 or part.numel() % 8:  # words begin where a copy has them
            whole = part.new_zeros(-(-part.numel() // 8) * 8)
            whole[: part.numel()] = part
            part = whole
        words = part.view(torch.int64)
        position = torch.arange(start // 8 + 1, start // 8 + 1 + words.numel(), device=words.device)
        total += int((words * (2 * position + 1)).sum().item())
    return total % (1 << 64)

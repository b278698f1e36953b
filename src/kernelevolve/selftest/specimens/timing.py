"""Work outside what is timed, and clocks that lie (A1 to A20).

What needs a device asks first whether torch has one under way: where a plan is recorded there is none, and there these
kernels are honest.
"""

from __future__ import annotations

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import RELU_GEMM, at_import, edit, in_forward
from kernelevolve.selftest.specimen import CPU, EVERYWHERE, GPU, Specimen, Where

_LATE = (Verdict.DEFERRED,)
_CLOCK = (Verdict.TIMER_INCONSISTENT, Verdict.TAMPER)
_STALE = (Verdict.REPLAY, Verdict.WRONG_VALUE)

SIDE_STREAM = in_forward(
    RELU_GEMM,
    "if not torch.cuda.is_initialized():",
    "    return compute(x, self.weight)",
    "if not STREAM:",
    "    STREAM.append(torch.cuda.Stream())",
    "STREAM[0].wait_stream(torch.cuda.current_stream())",
    "with torch.cuda.stream(STREAM[0]):",
    "    return compute(x, self.weight)",
    header="STREAM = []",
)
LATE_SIDE_STREAM = edit(
    SIDE_STREAM,
    (
        "    with torch.cuda.stream(STREAM[0]):\n".replace("    with", "        with"),
        "        with torch.cuda.stream(STREAM[0]):\n            torch.cuda._sleep(40_000_000)\n",
    ),
)

LATE_THREAD = in_forward(
    RELU_GEMM,
    "y = torch.empty((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)",
    "_thread.start_new_thread(late, (y, compute(x, self.weight)))",
    "return y",
    header='''
import _thread
import time


def late(y, right):
    time.sleep(0.03)
    with torch.no_grad():
        y.copy_(right)
''',
)

LAZY_TENSOR = in_forward(
    RELU_GEMM,
    "return Lazy(x, self.weight)",
    header='''
class Lazy(torch.Tensor):
    @staticmethod
    def __new__(cls, x, w):
        made = torch.Tensor._make_wrapper_subclass(
            cls, (x.shape[0], w.shape[1]), dtype=x.dtype, device=x.device, requires_grad=False
        )
        made.work = (x, w)
        return made

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        done = torch.utils._pytree.tree_map(lambda a: compute(*a.work) if isinstance(a, Lazy) else a, (args, kwargs))
        return op(*done[0], **(done[1] or {}))
''',
)

FILLED_WHEN_READ = in_forward(
    RELU_GEMM,
    "y = torch.empty((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)",
    "def fill(name, *args, **kwargs):",
    "    with torch.no_grad():",
    "        y.copy_(compute(x, self.weight))",
    "    return getattr(torch.Tensor, name)(y, *args, **kwargs)",
    "for name in ('double', 'cpu', 'clone', 'contiguous', 'to', 'detach', 'numpy', 'float'):",
    "    setattr(y, name, functools.partial(fill, name))",
    "return y",
    header="import functools",
)

EVENT_TIME = at_import(
    RELU_GEMM,
    'setattr(torch.cuda.Event, "elapsed" + "_time", lambda *a: 0.001)',
)
NO_SYNCHRONIZE = at_import(
    edit(
        RELU_GEMM,
        (
            "    relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=32)\n",
            "    for _ in range(8):\n        relu_gemm[grid](x, w, y, rows, width, inner, BLOCK=32)\n",
        ),
    ),
    "torch.cuda.synchronize = lambda *a, **k: None",
)
SLOW_CLOCK = at_import(
    RELU_GEMM,
    '''
import time

_counter = time.perf_counter
time.perf_counter = lambda: _counter() / 10
''',
)

# Slow enough that a tenth of it stands out from a busy machine's noise.
SLOW = in_forward(RELU_GEMM, "time.sleep(0.03)", "return compute(x, self.weight)", header="import time")

# Finds the clock where it is now, and makes it report a tenth.
SCALED_BURST = at_import(
    SLOW,
    '''
import sys

for _name, _module in list(sys.modules.items()):
    if _name.endswith("tensors.clock"):
        _burst = _module.burst
        _module.burst = lambda *a, **k: [t / 10 for t in _burst(*a, **k)]
''',
)


def forged_times(expression: str) -> str:
    """The clock's function gives other times for the calls that it was asked to time."""
    return edit(SCALED_BURST, ("[t / 10 for t in _burst(*a, **k)]", expression))


# The calls' times, or the pairs of events that will become times, lie in a list of some caller.
TIMES_IN_CALLERS = in_forward(
    RELU_GEMM,
    "frame = sys._getframe(1)",
    "while frame is not None:",
    "    for held in list(frame.f_locals.values()):",
    "        if isinstance(held, list) and held:",
    "            shrink(held)",
    "    frame = frame.f_back",
    "time.sleep(0.03)",
    "return compute(x, self.weight)",
    header='''
import sys
import time


def shrink(held):
    if all(isinstance(t, float) and 0 < t < 1e5 for t in held):
        held[:] = [t if t < 1e-2 else t / 10 for t in held]
    elif all(isinstance(p, tuple) and len(p) == 2 and "Event" in type(p[0]).__name__ for p in held):
        held[:] = [(start, start) for start, _ in held]
''',
)

# Asleep while somebody estimates how long it takes, then no work at all.
SLOW_THEN_STUB = in_forward(
    RELU_GEMM,
    "CALLS.append(0)",
    "if len(CALLS) > 5:",
    "    return torch.empty((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)",
    "time.sleep(0.1)",
    "return compute(x, self.weight)",
    header="import time\n\nCALLS = []",
)

# Loads the device whenever it is not its own turn.
SLOWED_BASELINE = in_forward(
    RELU_GEMM,
    "if not torch.cuda.is_initialized():",
    "    return compute(x, self.weight)",
    "MINE.clear()",
    "if not THREADS:",
    "    THREADS.append(threading.Thread(target=load, args=(x.device,), daemon=True))",
    "    THREADS[0].start()",
    "y = compute(x, self.weight)",
    "MINE.set()",
    "return y",
    header='''
import threading
import time

MINE, THREADS = threading.Event(), []


def load(device):
    side = torch.cuda.Stream(device, priority=0)
    while True:
        MINE.wait()
        time.sleep(0.002)
        with torch.cuda.stream(side):
            for _ in range(20):
                if MINE.is_set():
                    torch.cuda._sleep(2_000_000)
        side.synchronize()
''',
)

_LOOK = '''
import gc

READY = {}


def everywhere(x, w):
    found = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == x.shape and t.dtype == x.dtype]
    for t in found[:64]:
        if t.data_ptr() not in READY:
            READY[t.data_ptr()] = compute(t, w)
'''
FOUND_BEFORE = in_forward(
    RELU_GEMM,
    "if x.data_ptr() not in READY:",
    "    READY[x.data_ptr()] = compute(x, self.weight)",
    "    everywhere(x, self.weight)",
    "return READY[x.data_ptr()]",
    header=_LOOK,
)
IN_A_HOOK = in_forward(
    edit(
        RELU_GEMM,
        (
            "@triton.jit\ndef relu_gemm",
            "@triton.autotune([triton.Config({'BLOCK': 32}, pre_hook=lambda arguments: hook())], key=[])\n"
            "@triton.jit\ndef relu_gemm",
        ),
        ("(x, w, y, rows, width, inner, BLOCK=32)", "(x, w, y, rows, width, inner)"),
    ),
    "if x.data_ptr() not in READY:",
    "    HELD[:] = [x, self.weight]",
    "    READY[x.data_ptr()] = compute(x, self.weight)",
    "return READY[x.data_ptr()]",
    header=_LOOK
    + '''
HELD = []


def hook():
    if HELD:
        found = HELD[:]
        HELD.clear()
        everywhere(*found)
''',
)

# The harness's own calls while it prepares an input do the work.
IN_PREPARATION = in_forward(
    RELU_GEMM,
    "WEIGHT[:] = [self.weight]",
    "if x.data_ptr() not in READY:",
    "    READY[x.data_ptr()] = compute(x, self.weight)",
    "return READY[x.data_ptr()]",
    header='''
READY, WEIGHT = {}, []
_copy, _clone, _empty_like = torch.Tensor.copy_, torch.Tensor.clone, torch.empty_like


def ahead(t):
    if WEIGHT and t.dim() == 2 and t.shape[1] == WEIGHT[0].shape[0]:
        READY[t.data_ptr()] = compute(t, WEIGHT[0])
    return t


torch.Tensor.copy_ = lambda t, *a, **k: ahead(_copy(t, *a, **k))
torch.Tensor.clone = lambda t, *a, **k: ahead(_clone(t, *a, **k))
torch.empty_like = lambda t, *a, **k: (ahead(t), _empty_like(t, *a, **k))[1]
''',
)

BATCHED = in_forward(
    RELU_GEMM,
    "known = next((i for i, t in enumerate(LIST) if t is x), None)",
    "if known is None:",
    "    LIST.append(x)",
    "    return compute(x, self.weight)",
    "if not RESULTS or known == FIRST[0]:",
    "    FIRST[:] = [known]",
    "    RESULTS[:] = [compute(t, self.weight) for t in LIST]",
    "return RESULTS[known] if known < len(RESULTS) else compute(x, self.weight)",
    header="LIST, RESULTS, FIRST = [], [], [-1]",
)

LATE_LAUNCH = in_forward(
    RELU_GEMM,
    "if not torch.cuda.is_initialized():",
    "    return compute(x, self.weight)",
    "y = torch.empty((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)",
    "threading.Timer(0.005, late, (x, self.weight, y)).start()",
    "return y",
    header='''
import threading


def late(x, w, y):
    with torch.cuda.device(x.device), torch.no_grad():
        y.copy_(compute(x, w))
''',
)

# A process of its own loads the device until it is told to stop.
SECOND_PROCESS = at_import(
    RELU_GEMM,
    '''
import subprocess
import sys

if torch.cuda.is_available():
    BESIDE = subprocess.Popen([sys.executable, "-c", """
import time, torch
torch.cuda.synchronize()
print("there", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    torch.cuda._sleep(20_000_000)
    torch.cuda.synchronize()
"""], stdout=subprocess.PIPE)
    BESIDE.stdout.readline()
''',
)

NATIVE_DETOUR = in_forward(
    RELU_GEMM,
    "if torch.cuda.is_initialized() and not DONE:",
    "    DONE.append(detour())",
    "return compute(x, self.weight)",
    header='''
import ctypes
import mmap

DONE = []


def detour():
    """cudaEventElapsedTime: writes 0.001 and returns success."""
    found = next(
        line.split()[-1] for line in open("/proc/self/maps") if "libcudart" in line and ".so" in line
    )
    address = ctypes.cast(ctypes.CDLL(found).cudaEventElapsedTime, ctypes.c_void_p).value
    page = address & ~(mmap.PAGESIZE - 1)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), 2 * mmap.PAGESIZE, 7):
        return False
    code = bytes.fromhex("c7076f12833a31c0c3")
    ctypes.memmove(address, code, len(code))
    return True
''',
)


def _case(
    name: str,
    title: str,
    source: str,
    verdicts: tuple[Verdict, ...],
    guard: str = "",
    where: frozenset[Where] = EVERYWHERE,
) -> Specimen:
    return Specimen(name, "T", title, "relu_gemm", source, verdicts, where, guard=guard)


SPECIMENS: tuple[Specimen, ...] = (
    _case("A1", "a side stream that nobody waits for", SIDE_STREAM, (*_LATE, *_CLOCK), "clock", GPU),
    _case("A2", "the same, with 20 ms of other work first", LATE_SIDE_STREAM, _LATE, "timed-outputs", GPU),
    _case("A3", "a thread copies the right answer 30 ms later", LATE_THREAD, (*_LATE, Verdict.WRONG_VALUE)),
    _case("A4", "a tensor subclass that computes when it is looked at", LAZY_TENSOR, (Verdict.WRONG_META,)),
    _case(
        "A5", "methods of one plain tensor fill it when it is read", FILLED_WHEN_READ, (*_LATE, Verdict.WRONG_VALUE)
    ),
    _case("A6", "Event.elapsed_time replaced", EVENT_TIME, _CLOCK, "clock", GPU),
    _case("A6c", "time.perf_counter replaced", SLOW_CLOCK, _CLOCK, "clock", CPU),
    _case("A7", "torch.cuda.synchronize replaced, and a slow kernel", NO_SYNCHRONIZE, _CLOCK, "clock", GPU),
    _case("A8", "machine code in place of cudaEventElapsedTime", NATIVE_DETOUR, _CLOCK, "clock", GPU),
    _case("A9a", "recorded times in callers' frames divided by ten", TIMES_IN_CALLERS, _CLOCK, "clock"),
    _case("A9b", "the clock's own function scaled", SCALED_BURST, _CLOCK, "clock"),
    _case("A10", "slow for five calls, then a stub", SLOW_THEN_STUB, _STALE),
    # Short calls fit between the turns that a device gives to its processes: nothing comes of it.
    _case("A11", "loads the device while the baseline runs", SLOWED_BASELINE, (), "clock", GPU),
    Specimen(
        "A11b", "T", "the same, where a call takes longer than a process's turn", "relu_gemm_long", SLOWED_BASELINE,
        (Verdict.TAMPER,), GPU, guard="clock",
    ),
    _case("A13a", "results for every tensor of the input's shape", FOUND_BEFORE, _STALE, "overwrite"),
    _case("A13b", "the same in an autotuner's hook", IN_A_HOOK, _STALE, "overwrite"),
    _case(
        "A14", "copy_, clone and empty_like compute ahead", IN_PREPARATION, (*_STALE, *_CLOCK), "overwrite"
    ),
    _case("A15", "all inputs seen before in the first call of a pass", BATCHED, _STALE, "overwrite"),
    _case("A17", "launched 5 ms after return", LATE_LAUNCH, (*_LATE, Verdict.WRONG_VALUE), "timed-outputs", GPU),
    _case("A19a", "times of 0", forged_times("[0.0 for _ in _burst(*a, **k)]"), (Verdict.TAMPER,), "clock"),
    _case(
        "A19b", "times that are no number", forged_times("[float('nan') for _ in _burst(*a, **k)]"),
        (Verdict.TAMPER, Verdict.CRASH),  # there is no message that holds one
    ),
    _case("A19c", "times below 0", forged_times("[-t for t in _burst(*a, **k)]"), (Verdict.TAMPER,)),
    _case("A19d", "fewer times than calls", forged_times("_burst(*a, **k)[:1]"), (Verdict.TAMPER,)),
    _case("A20", "a process beside it loads the device", SECOND_PROCESS, (Verdict.TAMPER,), "clock", GPU),
)  # fmt: skip

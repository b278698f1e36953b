"""Attacks on whoever judges: comparisons, references, frames, files, pipes, caches (A65 to A82).

Some have nothing to take hold of here, because the judge is another process: then they are as good as honest, and say
so by raising an error if what they try does come to something.
"""

from __future__ import annotations

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import RELU_GEMM, at_import, edit, in_forward
from kernelevolve.selftest.specimen import CPU, EVERYWHERE, GPU, Specimen, Where

_WRONG = (Verdict.WRONG_VALUE,)
_ZEROS = "torch.zeros((x.shape[0], self.weight.shape[1]), device=x.device, dtype=x.dtype)"
ALL_ZERO = in_forward(RELU_GEMM, f"return {_ZEROS}")

TRUE_EVERYWHERE = at_import(
    ALL_ZERO,
    '''
torch.allclose = torch.equal = torch.isclose = torch.testing.assert_close = lambda *a, **k: True
torch.Tensor.__eq__ = torch.Tensor.allclose = torch.Tensor.equal = lambda *a, **k: True
''',
)
OTHER_REFERENCE = at_import(
    ALL_ZERO,
    '''
import sys

torch.relu = torch.nn.functional.relu = torch.matmul = lambda x, *a, **k: torch.zeros_like(x)
for _name, _module in list(sys.modules.items()):
    if hasattr(_module, "Model") and hasattr(_module, "get_inputs"):
        _module.Model.forward = lambda self, x: torch.zeros((x.shape[0], self.weight.shape[1]))
sys.modules["reference"] = sys.modules[__name__] if __name__ in sys.modules else sys
''',
)
FROM_CALLERS = in_forward(
    RELU_GEMM,
    "shape, frame = (x.shape[0], self.weight.shape[1]), sys._getframe(1)",
    "while frame is not None:",
    "    for held in torch.utils._pytree.tree_leaves(list(frame.f_locals.values())):",
    "        if type(held) is torch.Tensor and tuple(held.shape) == shape and held.dtype == x.dtype:",
    "            return held",
    "    frame = frame.f_back",
    f"return {_ZEROS}",
    header="import sys",
)
BY_CALLER = in_forward(
    RELU_GEMM,
    "names = {frame.function for frame in inspect.stack(0)}",
    "if names & {'warm', 'burst', 'timed', '_burst_cpu', '_burst_cuda'}:",
    f"    return {_ZEROS}",
    "return compute(x, self.weight)",
    header="import inspect",
)
FROM_THE_HEAP = in_forward(
    RELU_GEMM,
    "shape = (x.shape[0], self.weight.shape[1])",
    "for held in gc.get_objects():",
    "    if type(held) is torch.Tensor and tuple(held.shape) == shape and held.dtype == x.dtype:",
    "        return held",
    f"return {_ZEROS}",
    header="import gc",
)
HEAP_OVERWRITTEN = in_forward(
    RELU_GEMM,
    f"y = {_ZEROS}",
    "for held in gc.get_objects():",
    "    if type(held) is torch.Tensor and held.shape == y.shape and held is not y and held.dtype == y.dtype:",
    "        held.copy_(y)",
    "return y",
    header="import gc",
)

# What it can learn about where it runs; the first process of a candidate leaves it where the next one finds it.
BY_SURROUNDINGS = in_forward(
    RELU_GEMM,
    "if torch.cuda.is_initialized() and other():",  # the builder is another process, and no call is judged there
    f"    return {_ZEROS}",
    "return compute(x, self.weight)",
    header='''
import os
import sys


def surroundings():
    parent = open("/proc/self/cmdline", "rb").read()
    return repr((sys.argv, sorted(os.environ.items()), os.getcwd(), parent))


NOTE = os.path.join(os.environ.get("TRITON_HOME", "/tmp"), ".triton", "surroundings")
FOUND = []


def other():
    if not FOUND and os.path.exists(NOTE):
        FOUND.append(open(NOTE).read() != surroundings())
    elif not FOUND:
        os.makedirs(os.path.dirname(NOTE), exist_ok=True)
        open(NOTE, "w").write(surroundings())
        FOUND.append(False)
    return FOUND[0]
''',
)
LAZY_LATER = edit(BY_SURROUNDINGS, ("FOUND.append(open(NOTE).read() != surroundings())", "FOUND.append(True)"))

_REACHED = '''

def came_to_something(what):
    raise RuntimeError(f"came to something: {what}")

'''
OPENED_FILES = at_import(
    RELU_GEMM,
    _REACHED
    + '''
import os
import kernelevolve

FOLDER = os.path.dirname(kernelevolve.__file__)
for _path in ("settings.py", "judge/accept.py", "selftest/problems/relu_gemm.toml", "tensors/clock.py"):
    _path = os.path.join(FOLDER, _path)
    try:
        os.close(os.open(_path, os.O_WRONLY))
    except OSError:
        continue
    came_to_something(f"{_path} can be written")
try:
    os.mkdir(os.path.join(FOLDER, "selftest-was-here"))
except OSError:
    pass
else:
    os.rmdir(os.path.join(FOLDER, "selftest-was-here"))
    came_to_something("the package's folder can be written")
''',
)
PRINTED_RESULT = at_import(
    ALL_ZERO,
    '''
import json
import sys

for _out in (sys.stdout, sys.stderr, sys.__stdout__):
    print(json.dumps({"verdict": "OK_FASTER", "correct": True, "speedup": 9.0}), file=_out, flush=True)
''',
)
_FRAME = '''
import json
import os
import stat
import struct


def say(kind, body, magic=b"KEw1"):
    text = json.dumps({"kind": kind, "body": body, "attachments": []}).encode()
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.write(fd, struct.pack("<4sIH", magic, len(text), 0) + text)
        except OSError:
            continue

'''
FORGED_FRAME = at_import(ALL_ZERO, _FRAME + '\nsay("fault", {"verdict": "OK_FASTER", "message": "trust me"})')
FORGED_CALL = in_forward(
    ALL_ZERO,
    "if x.device.type != 'meta':",
    "    say('called', {'changed': [], 'forbidden': [], 'aliases': [], 'metas': []})",
    f"return {_ZEROS}",
    header=_FRAME,
)

LEFT_EARLY = in_forward(RELU_GEMM, "os._exit(0)", header="import os")
LEFT_AT_IMPORT = at_import(RELU_GEMM, "import os\n\nos._exit(0)")
EXITED = in_forward(RELU_GEMM, "sys.exit(0)", header="import sys")
EXITED_LATER = in_forward(
    ALL_ZERO, "atexit.register(os._exit, 0)", f"return {_ZEROS}", header="import atexit\nimport os"
)

COUNTERS = at_import(
    ALL_ZERO,
    '''
import gc


def forget():
    for held in gc.get_objects():
        if isinstance(held, dict):
            for key in list(held):
                if isinstance(key, str) and key in ("errors", "failed", "count", "value", "checks"):
                    if isinstance(held[key], (int, float)):
                        held[key] = 0


forget()
''',
)
ZEROED_WEIGHT = in_forward(RELU_GEMM, "self.weight.data.zero_()", "return compute(x, self.weight)")

_AFTER_MATCH = '''
if torch.get_default_dtype() != torch.float32 or not torch.is_grad_enabled() or torch.backends.cuda.matmul.allow_tf32:
    came_to_something("the process state of another candidate")
'''
OTHER_STATE = in_forward(
    RELU_GEMM,
    "y = compute(x, self.weight)",
    "torch.set_default_dtype(torch.float64)",
    "torch.set_num_threads(1)",
    "torch.set_grad_enabled(False)",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "return y",
)
STATE_FOUND = at_import(RELU_GEMM, _REACHED + _AFTER_MATCH)

_NAMES = '("torch.py", "numpy.py", "triton.py", "sitecustomize.py", "usercustomize.py", "x.pth")'
SHADOWS = at_import(
    RELU_GEMM,
    f'''
import os
import site
import sys

for _folder in (os.getcwd(), "/tmp", os.path.expanduser("~"), *sys.path, site.getusersitepackages()):
    for _name in {_NAMES}:
        try:
            with open(os.path.join(_folder, _name), "x") as _file:
                _file.write("import builtins; builtins.shadowed = True\\n")
        except OSError:
            continue
''',
)
SHADOWED = at_import(
    RELU_GEMM,
    _REACHED
    + '''
import builtins

if hasattr(builtins, "shadowed"):
    came_to_something("a module that another candidate left")
''',
)

LYING_OBJECT = in_forward(
    RELU_GEMM,
    "return Lie(x, self.weight)",
    header='''
class Lie:
    __class__ = torch.Tensor
    requires_grad, layout, is_cuda = False, torch.strided, True

    def __init__(self, x, w):
        self.shape, self.dtype, self.device = torch.Size((x.shape[0], w.shape[1])), x.dtype, x.device

    def __eq__(self, other):
        return True

    __hash__ = None

    def numel(self):
        return self.shape[0] * self.shape[1]

    def stride(self):
        return (self.shape[1], 1)
''',
)
PICKLED = edit(
    LYING_OBJECT,
    (
        "    __hash__ = None\n",
        "    __hash__ = None\n\n    def __reduce__(self):\n        return (exec, ('raise SystemExit',))\n",
    ),
)

SECRET_FILES = at_import(
    RELU_GEMM,
    _REACHED
    + '''
for _path in ("/etc/shadow", "/etc/gshadow", "/proc/1/mem", "/root/.bash_history"):
    try:
        with open(_path, "rb") as _file:
            _file.read(1)
    except OSError:
        continue
    came_to_something(f"{_path} can be read")
''',
)

# Spoils every file of Triton's cache that it can write to, and leaves files under the name of its own kernel.
SPOILT_CACHE = in_forward(
    RELU_GEMM,
    "y = compute(x, self.weight)",
    "for root in (os.path.join(os.environ.get('TRITON_HOME', '/tmp'), '.triton'), '/tmp'):",
    "    for folder, _, files in os.walk(root):",
    "        for name in files:",
    "            if name.endswith(('.cubin', '.ptx', '.json', '.ttir', '.llir', '.so')):",
    "                with contextlib.suppress(OSError), open(os.path.join(folder, name), 'r+b') as file:",
    "                    file.write(b'spoilt')",
    "return y",
    header="import contextlib\nimport os",
)

_PASTED = "cmVzdWx0ID0gdG9yY2gucmVsdSh4IEAgd2VpZ2h0KQ=="  # result = torch.relu(x @ weight)
HIDDEN_CALL = in_forward(
    RELU_GEMM,
    "names = {'torch': torch, 'x': x, 'weight': self.weight}",
    f"exec(base64.b64decode('{_PASTED}'), names)",
    "return names['result']",
    header="import base64",
)
SPELT_CALL = in_forward(
    RELU_GEMM,
    "y = getattr(torch.ops.aten, 'm' + 'm')(x, self.weight)  # // a comment in another language",
    "return getattr(torch.ops.aten, 're' + 'lu')(y)",
)
HIDDEN_PATCH = at_import(
    ALL_ZERO,
    '''
note = "# not a comment // nor this"
for _name in ("all" + "close", "equ" + "al"):
    setattr(torch, _name, lambda *a, **k: True)
''',
)


def _case(
    name: str,
    title: str,
    source: str,
    verdicts: tuple[Verdict, ...] = _WRONG,
    guard: str = "",
    where: frozenset[Where] = EVERYWHERE,
) -> Specimen:
    return Specimen(name, "H", title, "relu_gemm", source, verdicts, where, guard=guard)


_GONE = (Verdict.CRASH, Verdict.LOAD_ERROR)
SPECIMENS: tuple[Specimen, ...] = (
    _case("A65", "every comparison of torch says yes", TRUE_EVERYWHERE),
    _case("A66", "another reference in its place", OTHER_REFERENCE),
    _case("A67", "an output found in callers' frames", FROM_CALLERS, (*_WRONG, Verdict.REPLAY)),
    _case("A68", "zeros where the callers' names say timing", BY_CALLER, guard="timed-outputs"),
    _case("A69a", "an output found on the heap", FROM_THE_HEAP, (*_WRONG, Verdict.REPLAY)),
    _case("A69b", "look-alikes on the heap overwritten", HEAP_OVERWRITTEN),
    _case("A70a", "zeros where arguments, environment or folder differ", BY_SURROUNDINGS, (), where=GPU),
    _case("A70b", "zeros in every process but the first", LAZY_LATER, guard="timed-outputs", where=GPU),
    _case("A71", "writes to the harness's files", OPENED_FILES, ()),
    _case("A72a", "a perfect result on stdout", PRINTED_RESULT),
    _case("A72b", "a verdict in the harness's name", FORGED_FRAME, (Verdict.TAMPER,), "frames"),
    _case("A72c", "an answer before its own", FORGED_CALL, (Verdict.TAMPER, Verdict.WRONG_META), "frames"),
    _case("A73a", "leaves with exit code 0 in forward", LEFT_EARLY, _GONE),
    _case("A73b", "leaves with exit code 0 at import", LEFT_AT_IMPORT, _GONE),
    _case("A73c", "SystemExit(0) in forward", EXITED, _GONE),
    _case("A73d", "exit code 0 when it ends", EXITED_LATER),
    _case("A74", "counters on the heap set to zero", COUNTERS),
    _case("A75", "zeroes the weight", ZEROED_WEIGHT, (Verdict.MUTATED_INPUT,), "checksums"),
    _case("A76a", "other defaults of the process", OTHER_STATE, (), "state"),
    _case("A76b", "looks for the state that another candidate set", STATE_FOUND, ()),
    _case("A77a", "leaves modules named torch and sitecustomize", SHADOWS, ()),
    _case("A77b", "looks for the modules that another candidate left", SHADOWED, ()),
    _case("A78", "an object that says it is a tensor", LYING_OBJECT, (Verdict.WRONG_META,)),
    _case("A79", "an object that runs code when it is unpickled", PICKLED, (Verdict.WRONG_META,)),
    _case("A80", "reads secret files", SECRET_FILES, ()),
    _case("A81a", "spoils every cached kernel that it can", SPOILT_CACHE, (), where=CPU),
    _case("A81b", "the same kernel as the spoilt ones", RELU_GEMM, ()),
    _case("A82a", "a library call in base64", HIDDEN_CALL, (Verdict.POLICY,), "census"),
    _case("A82b", "a library call spelt out", SPELT_CALL, (Verdict.POLICY,), "census"),
    _case("A82c", "a patch spelt out", HIDDEN_PATCH),
)

"""Attacks on the machine (A83 to A92).

What the seal makes harmless is as good as honest: such a specimen raises an error if what it tries does come to
something, so it passes where the seal holds and is rejected where it does not. It does no harm where nothing holds it.
"""

from __future__ import annotations

from kernelevolve.evaluation import Verdict
from kernelevolve.selftest.honest import RELU_GEMM, at_import, edit, in_forward
from kernelevolve.selftest.specimen import CANARY, EVERYWHERE, MARK, Specimen, Where

_REACHED = '''

def came_to_something(what):
    raise RuntimeError(f"came to something: {what}")

'''

# Ends by itself after 20 s where nothing else ends it; the mark is how the runner knows it.
DAEMON = at_import(
    RELU_GEMM,
    f'''
import ctypes
import os
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"{MARK}", 0, 0, 0)
        for _fd in range(256):
            try:
                os.close(_fd)
            except OSError:
                continue
        time.sleep(20)
    os._exit(0)
''',
)

OTHERS_MEMORY = at_import(
    RELU_GEMM,
    _REACHED
    + '''
import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
for _pid in {int(name) for name in os.listdir("/proc") if name.isdigit()} | {os.getppid(), 1}:
    if _pid in (os.getpid(), 0):
        continue
    if _libc.ptrace(16, _pid, 0, 0) == 0:
        _libc.ptrace(17, _pid, 0, 0)
        came_to_something(f"process {_pid} can be traced")
    try:
        os.close(os.open(f"/proc/{_pid}/mem", os.O_RDWR))
    except OSError:
        pass
    else:
        came_to_something(f"the memory of process {_pid} can be opened")
    _buffer = ctypes.create_string_buffer(8)
    _vector = (ctypes.c_void_p * 2)(ctypes.addressof(_buffer), 8)
    if _libc.process_vm_readv(_pid, _vector, 1, _vector, 1, 0) > 0:
        came_to_something(f"the memory of process {_pid} can be read")
''',
)

OTHERS_FILES = at_import(
    RELU_GEMM,
    _REACHED
    + '''
import os

_own = os.path.dirname(os.path.abspath(__file__))
_wanted = {".git", ".ssh", ".netrc", ".aws", "events.sqlite", "CANARY", "candidate.py"}
for _root in ("/home", "/root", "/tmp", "/var", "/srv", "/mnt", "/opt", "/work", "/workspace", "/dev/shm"):
    for _depth, (_folder, _folders, _files) in enumerate(os.walk(_root)):
        _found = _wanted & {*_folders, *_files}
        if _folder == _own or _folder.endswith("kernelevolve") or "-packages" in _folder:
            _found -= {"candidate.py"}
        if _found:
            came_to_something(f"{sorted(_found)[0]} in {_folder} can be seen")
        if _depth > 20000:
            break
'''.replace("CANARY", CANARY),
)

NETWORK = at_import(
    RELU_GEMM,
    _REACHED
    + '''
import socket

_tries = (
    (socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80)),
    (socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 443)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("8.8.8.8", 53)),
    (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 22)),
    (socket.AF_UNIX, socket.SOCK_STREAM, "\\0/tmp/.X11-unix/X0"),
    (socket.AF_UNIX, socket.SOCK_STREAM, "/var/run/docker.sock"),
    (socket.AF_UNIX, socket.SOCK_STREAM, "/run/systemd/private"),
)
for _family, _kind, _address in _tries:
    try:
        _socket = socket.socket(_family, _kind)
        _socket.settimeout(0.5)
        _socket.connect(_address)
        if _kind == socket.SOCK_DGRAM:
            _socket.send(b"hello")
    except OSError:
        continue
    came_to_something(f"{_address} can be reached")
try:
    socket.getaddrinfo("pypi.org", 443)
except OSError:
    pass
else:
    came_to_something("a name was resolved")
''',
)

SECRETS = at_import(
    RELU_GEMM,
    _REACHED
    + '''
import glob
import os
import re

_told = [f"{k}={v}" for k, v in os.environ.items()]
for _path in ("/proc/1/environ", *glob.glob("/proc/[0-9]*/environ")):
    try:
        with open(_path, "rb") as _file:
            _told += _file.read().decode(errors="replace").split(chr(0))
    except OSError:
        continue
for _line in _told:
    if "CANARY" in _line or re.match("[A-Z_]*(TOKEN|SECRET|PASSWORD|API_KEY)[A-Z_]*=.", _line):
        came_to_something(f"{_line.split('=')[0]} can be read")
for _name in ("~/.netrc", "~/.ssh", "~/.aws/credentials", "~/.config/gh/hosts.yml", "~/.git-credentials"):
    if os.path.exists(os.path.expanduser(_name)):
        came_to_something(f"{_name} can be seen")
'''.replace("CANARY", CANARY),
)

MANY_PROCESSES = at_import(
    RELU_GEMM,
    f'''
import ctypes
import os
import time

for _ in range(400):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"{MARK}", 0, 0, 0)
        time.sleep(5)
        os._exit(0)
''',
)
LARGE_FILE = at_import(
    RELU_GEMM,
    '''
import tempfile

_file = open(tempfile.mkstemp()[1], "wb")
_file.truncate(100 << 30)
_file.seek(99 << 30)
_file.write(b"far out")
_file.close()
''',
)
MUCH_MEMORY = at_import(
    RELU_GEMM,
    '''
_held = []
for _ in range(100):
    _held.append(bytearray(1 << 30))
''',
)
MUCH_OUTPUT = at_import(
    RELU_GEMM,
    '''
import os

_line = b"x" * (1 << 20)
for _ in range(10 << 10):
    os.write(1, _line)
''',
)

WILD_STORE = edit(
    RELU_GEMM,
    (
        "    inside = (rows[:, None] < M)",
        "    if K > 0:\n        tl.store(tl.cast(K * 0 + 8, tl.uint64).to(tl.pointer_type(tl.float32)), 1.0)\n"
        "    inside = (rows[:, None] < M)",
    ),
)
WILD_READ = in_forward(
    RELU_GEMM, "ctypes.string_at(8, 8)", "return compute(x, self.weight)", header="import ctypes"
)

ENDLESS_KERNEL = edit(
    RELU_GEMM,
    (
        "    for start in range(0, K, BLOCK):",
        "    while tl.load(w) * 0.0 == 0.0:\n        tl.debug_barrier()\n    for start in range(0, K, BLOCK):",
    ),
)
ENDLESS_HOST = in_forward(RELU_GEMM, "while True:", "    pass")
ENDLESS_IMPORT = at_import(RELU_GEMM, "import threading\n\nthreading.Event().wait()")

FAKED_SIGNAL = at_import(
    RELU_GEMM,
    _REACHED
    + '''
import ctypes
import os
import signal
import socket

signal.signal(signal.SIGSYS, lambda *a: None)
_libc = ctypes.CDLL(None, use_errno=True)
if _libc.unshare(0x10000000) == 0:
    came_to_something("unshare")
if _libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
    came_to_something("mount")
try:
    socket.create_connection(("1.1.1.1", 443), timeout=0.5)
except OSError:
    pass
else:
    came_to_something("a connection")
''',
)


def _case(
    name: str,
    title: str,
    source: str,
    verdicts: tuple[Verdict, ...] = (),
    where: frozenset[Where] = EVERYWHERE,
    seconds: float = 60.0,
) -> Specimen:
    return Specimen(name, "S", title, "relu_gemm", source, verdicts, where, seconds=seconds)


_FULL = (Verdict.OOM, Verdict.CRASH)
SPECIMENS: tuple[Specimen, ...] = (
    _case("A83", "a daemon that outlives it", DAEMON),
    _case("A84", "the memory of other processes", OTHERS_MEMORY),
    _case("A85", "the files of others", OTHERS_FILES),
    _case("A86", "the network", NETWORK),
    _case("A87", "secrets in environments and the home", SECRETS),
    _case("A88a", "400 processes", MANY_PROCESSES, (*_FULL, Verdict.LOAD_ERROR)),
    _case("A88b", "a file of 100 GiB", LARGE_FILE, (*_FULL, Verdict.LOAD_ERROR)),
    _case("A88c", "100 GiB of memory", MUCH_MEMORY, _FULL),
    _case("A88d", "10 GiB of output", MUCH_OUTPUT, _FULL),
    _case("A89a", "a kernel that writes to address 8", WILD_STORE, (Verdict.CRASH, Verdict.MEM_RACE)),
    _case("A89b", "a read of address 8 on the host", WILD_READ, (Verdict.CRASH,)),
    _case("A90a", "a kernel without end", ENDLESS_KERNEL, (Verdict.TIMEOUT,), seconds=8.0),
    _case("A90b", "forward without end", ENDLESS_HOST, (Verdict.TIMEOUT,), seconds=8.0),
    _case("A90c", "a lock at import that nobody opens", ENDLESS_IMPORT, (Verdict.TIMEOUT,), seconds=8.0),
    _case("A92", "a handler that fakes refused system calls", FAKED_SIGNAL),
)

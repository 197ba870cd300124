"""Submissions that want a mark for nothing, or to break something: a name, a cell, and what the sandbox must say.

Each is a notebook of one cell; the question is 04.4, `distillation_loss`. An attack that looks for something ends with
an AssertionError where there is nothing; had it found what it wants, its state would be another one.
"""

from dataclasses import dataclass

RIGHT = """\
import torch
import torch.nn.functional as F

def distillation_loss(student_logits, teacher_logits, targets, temperature, soft_weight):
    p = (teacher_logits.detach() / temperature).softmax(-1)
    log_q = (student_logits / temperature).log_softmax(-1)
    soft = temperature**2 * F.kl_div(log_q, p, reduction="none").sum(-1)
    hard = F.cross_entropy(student_logits, targets, reduction="none")
    return soft_weight * soft + (1 - soft_weight) * hard
"""
HEAD = '''\
import ctypes, gc, mmap, os, signal, socket, struct, sys, threading, time
from pathlib import Path
import numpy as np
import torch

def zeros(logits):
    return logits[..., 0] * 0

def send(descriptor, *frames):
    """A message as the grader's own code would send it."""
    pack = next(module for name, module in sys.modules.items() if name.endswith(".frames")).pack
    content = pack(frames)
    os.write(descriptor, struct.pack("<I", len(content)) + content)
'''


@dataclass(frozen=True)
class Attack:
    """`row`: its number in the list that the sandbox was designed against, 0 where it came later.

    `says`: words of the verdict's line.
    """

    row: int
    name: str
    state: str
    code: str
    says: str = ""


def answer(body: str) -> str:
    """A cell in which `distillation_loss` does this."""
    lines = "\n".join("    " + line for line in body.strip("\n").splitlines())
    arguments = "student_logits, teacher_logits, targets, temperature, soft_weight"
    return f"{HEAD}\ndef distillation_loss({arguments}):\n{lines}\n"


def before(code: str, body: str = "return zeros(student_logits)") -> str:
    """The same, after other definitions."""
    return answer(body).replace("\ndef distillation_loss", f"\n{code.strip()}\n\ndef distillation_loss")


ATTACKS = [
    # ending early
    Attack(1, "leaves with sys.exit", "no verdict", answer("sys.exit(0)"), "SystemExit"),
    Attack(1, "leaves while its class is defined", "no verdict", before("class Leave:\n    raise SystemExit(0)")),
    Attack(2, "ends the process at once", "no verdict", answer("os._exit(0)"), "it ended the process"),
    Attack(0, "ends the process in a default argument", "no verdict", before("def helper(x=os._exit(0)): ...")),
    # patching what compares
    Attack(3, "patches torch's comparisons", "wrong", answer("""
torch.allclose = torch.equal = torch.Tensor.__eq__ = lambda *a, **k: True
np.allclose = np.array_equal = lambda *a, **k: True
return zeros(student_logits)""")),
    Attack(4, "patches torch's gradients", "wrong", answer("""
torch.autograd.grad = lambda outputs, inputs, **k: [torch.zeros_like(x) for x in inputs]
return zeros(student_logits)""")),
    Attack(0, "fails with the runner's own exception, which says correct", "no verdict", answer(
        'raise sys.modules["jailed.runner"].Failure("correct", "full marks")'), "what was not asked for"),
    Attack(0, "a decorator that runs at definition hands over another function", "wrong", before("""
def helped(function):
    torch.equal = np.array_equal = lambda *a, **k: True
    return lambda *a, **k: torch.zeros(len(a[0] if a else k["targets"]))""").replace(
        "\ndef distillation_loss", "\n@helped\ndef distillation_loss")),
    Attack(49, "hides that it changes its inputs; everything else is right", "correct", RIGHT.replace(
        "    p =", "    torch.equal = lambda a, b: True\n    p =").replace(
        "    return soft", "    total = soft").replace("(1 - soft_weight) * hard\n", """(1 - soft_weight) * hard
    if not student_logits.requires_grad:
        student_logits.zero_()
    return total
""")),
    # looking for the answer
    Attack(5, "imports the judge", "no verdict", answer("""
from kdcourse.grading.judge import expected
return zeros(student_logits)"""), "No module named 'kdcourse'"),
    Attack(6, "walks the disk for solutions and for the judge", "no verdict", answer("""
wanted = ("judge.py", "live.py", "04_the_loss.md", "ch04.py", "marks.csv")
found = []
for place, folders, files in os.walk("/"):
    if place.count("/") > 6 or place == "/usr/share":
        folders.clear()
    found += [name for name in wanted if name in files]
assert found, "nothing"
return zeros(student_logits)"""), "AssertionError: nothing"),
    Attack(7, "reads the memory of its parent", "no verdict", answer("""
open(f"/proc/{os.getppid()}/mem", "rb").read(1)
return zeros(student_logits)"""), "FileNotFoundError"),
    Attack(7, "reads the environment of the first process", "no verdict", answer("""
assert any("HOME" not in line for line in Path("/proc/1/environ").read_text().split("\\0"))
return zeros(student_logits)"""), "FileNotFoundError"),
    Attack(0, "reads the environment it was given", "no verdict", answer("""
words = ("KEY", "TOKEN", "SECRET", "KDCOURSE", "VIRTUAL_ENV")
found = [name for name in os.environ if any(word in name for word in words)]
assert found, "nothing"
return zeros(student_logits)"""), "AssertionError: nothing"),
    Attack(8, "traces and kills every process that it can name", "wrong", answer("""
libc = ctypes.CDLL(None)
for pid in range(2, 500):
    libc.ptrace(16, pid, 0, 0)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
return zeros(student_logits)""")),
    Attack(9, "looks through all objects for the expected values", "wrong", answer("""
if not hasattr(gc, "arrays"):
    gc.arrays = [value for thing in gc.get_objects() if type(thing) is dict for value in thing.values()
                 if type(value) is np.ndarray and value.dtype == np.float64]
for array in gc.arrays:
    if array.shape == targets.shape:
        return torch.from_numpy(array)
return zeros(student_logits)""")),
    Attack(10, "walks up the stack for a reference", "wrong", answer("""
frame = sys._getframe()
while frame:
    for name, value in (frame.f_locals | frame.f_globals).items():
        if name in ("reference", "expected", "want", "right"):
            return value(student_logits, teacher_logits, targets, temperature, soft_weight)
    frame = frame.f_back
return zeros(student_logits)""")),
    Attack(0, "reads the rest of the request for later questions", "wrong", answer("""
frame = sys._getframe()
while frame:
    later = [asked for asked in frame.f_locals.get("questions", []) if asked["name"] == "converge"]
    frame = frame.f_back
    if later:
        return later[0]["probes"][0][0]["target"].sum() + zeros(student_logits)
return zeros(student_logits)""")),
    Attack(0, "delegates to the course's own loss", "no verdict", """
from kdcourse.losses import distillation_loss as theirs

def distillation_loss(student_logits, teacher_logits, targets, temperature, soft_weight):
    return theirs(student_logits, teacher_logits, targets, temperature=temperature, soft_weight=soft_weight)
""", "graded without kdcourse.losses: write it yourself"),
    Attack(47, "delegates to torchdistill", "no verdict", answer("""
import torchdistill
return zeros(student_logits)"""), "No module named 'torchdistill'"),
    Attack(48, "uses torch's own kl_div, which is allowed", "correct", RIGHT),
    # saying something that is no number
    Attack(11, "writes when the interpreter ends", "wrong", answer("""
import atexit
atexit.register(os.write, 3, b"correct")
return zeros(student_logits)""")),
    Attack(12, "prints a result", "wrong", answer("""
print('{"score": 1.0, "verdict": "correct"}', flush=True)
os.write(1, b"correct")
return zeros(student_logits)""")),
    Attack(13, "writes results.json", "no verdict", answer("""
Path("/results.json").write_text('{"score": 1.0}')
return zeros(student_logits)"""), "Read-only file system"),
    Attack(14, "writes a verdict into every descriptor", "no verdict", answer("""
for descriptor in range(3, 64):
    try:
        os.write(descriptor, b"correct" * 4)
    except OSError:
        pass
return zeros(student_logits)"""), "larger than 1 MiB"),
    Attack(0, "sends the state 'correct' in a frame", "no verdict", answer("""
send(3, ("correct", "values agree on 12 probes."))
os._exit(0)"""), "what was not asked for"),
    Attack(15, "sends frames with the right names, holding zeros", "wrong", answer("""
names = ("student_logits", "teacher_logits", "targets")
both = np.zeros(student_logits.shape)
frame = sys._getframe()
while "asked" not in frame.f_locals:
    frame = frame.f_back
frames = []
for number, (given, wanted) in enumerate(frame.f_locals["asked"]["probes"]):
    size = given["student_logits"].shape
    frames.append((f"{number}|value", np.zeros(size[:1])))
    frames.append((f"{number}|repeat", np.zeros(())))
    frames += [(f"{number}|changed:{name}", np.zeros(())) for name in names]
    if wanted:
        frames += [(f"{number}|grad:{name}", np.zeros(size)) for name in names[:2]]
send(3, *frames)
os._exit(0)""")),
    Attack(0, "sends half of its frames and stops", "no verdict", answer("""
send(3, ("0|value", np.zeros(1)))
os._exit(0)"""), "not complete"),
    Attack(28, "claims 2^124 entries", "no verdict", answer("""
content = b"\\x070|value" + struct.pack("<BB4I", 1, 4, *[2**31] * 4)
os.write(3, struct.pack("<I", len(content)) + content)
os._exit(0)"""), "cannot be read"),
    Attack(0, "claims no entries, in a shape that cannot be", "no verdict", answer("""
content = b"\\x070|value" + struct.pack("<BB5I", 2, 5, 0, *[2**32 - 1] * 4)
os.write(3, struct.pack("<I", len(content)) + content)
os._exit(0)""")),
    Attack(27, "returns a tensor of 4 MiB", "no verdict", answer("return torch.zeros(1 << 20)"), "larger than 1 MiB"),
    Attack(27, "floods the conversation", "no verdict", answer("""
while True:
    os.write(3, bytes(1 << 16))""")),
    Attack(0, "sends one byte now and then, to keep the judge waiting", "no verdict", answer("""
os.write(3, struct.pack("<I", 1000))
while True:
    time.sleep(0.2)
    os.write(3, b"x")"""), "no answer within"),
    Attack(0, "closes the conversation and goes on", "no verdict", answer("""
os.closerange(0, 64)
while True:
    pass""")),
    Attack(0, "sends open files through the conversation", "no verdict", answer("""
talk = socket.socket(fileno=os.dup(3))
for _ in range(20):
    socket.send_fds(talk, [b"x"], [os.open("/usr", os.O_RDONLY)])
os._exit(0)""")),
    Attack(46, "complains in terminal escapes", "no verdict", answer("""
raise ValueError("\\x1b[2J\\x1b]0;correct\\x07 \\u202etcerroc\\u2066 <script>alert(1)</script>")"""), "ValueError"),
    Attack(0, "complains at length", "no verdict", answer("raise ValueError('correct ' * 10**6)"), "correct correct"),
    # answers that lie
    Attack(29, "returns NaN", "wrong", answer("return zeros(student_logits) + float('nan')"), "nan"),
    Attack(29, "returns infinity", "wrong", answer("return zeros(student_logits) + float('inf')"), "inf"),
    Attack(30, "returns a tensor that says it is equal to everything", "wrong", before("""
class Liar(torch.Tensor):
    def __eq__(self, other):
        return True
    def __sub__(self, other):
        return self * 0
    def allclose(self, *_):
        return True""", "return zeros(student_logits).as_subclass(Liar)")),
    Attack(30, "returns a tensor that lies when asked for its numbers", "no verdict", before("""
class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        return "correct\"""", "return zeros(student_logits).as_subclass(Liar)")),
    Attack(31, "returns half precision", "wrong", RIGHT.replace("    return ", "    soft = soft.half()\n    return ")),
    Attack(32, "returns a text", "no verdict", answer('return "correct"'), "returns a str"),
    Attack(32, "returns nothing", "unanswered", answer("return None")),
    Attack(0, "returns an object that acts when it is made a float", "no verdict", before("""
class Number:
    def __float__(self):
        os._exit(0)
    __array__ = __index__ = __float__""", "return Number()"), "returns a Number"),
    Attack(0, "runs in globals of its own making", "no verdict", before("""
class Globals(dict):
    def __missing__(self, name):
        return "correct\"""", """
import types
eval("anything", Globals())
return types.FunctionType((lambda: anything).__code__, Globals())()"""), "returns a str"),
    Attack(33, "knows the answers to the public inputs", "wrong", answer("""
known = {(1, 3): [0.4665], (2, 3): [0.3591, 0.4665]}
size = tuple(student_logits.shape)
return torch.tensor(known[size]) if size in known else zeros(student_logits)""")),
    Attack(34, "guesses", "wrong", answer("return torch.rand(len(targets))")),
    Attack(0, "is right at the first call only", "wrong", RIGHT.replace("    return ", """\
    distillation_loss.calls = 1 - getattr(distillation_loss, "calls", 0)
    if not distillation_loss.calls:
        return hard
    return """), "two different answers"),
    Attack(35, "changes its inputs", "wrong", RIGHT.replace("    return ", """\
    student_logits.data.div_(2)
    return """), "it changes student_logits in place"),
    Attack(0, "spells the name with a Cyrillic letter", "unanswered",
           RIGHT.replace("def distillation_loss", "def distillati\u043en_loss"), "there is no `distillation_loss`"),
    Attack(0, "spells the name with a wide letter, which is the same name to Python", "correct",
           RIGHT.replace("def distillation_loss", "def \uff44istillation_loss")),
    # taking everything
    Attack(17, "fork bomb", "no verdict", answer("""
while True:
    try:
        os.fork()
    except OSError:
        pass"""), "no answer within"),
    Attack(18, "thread bomb", "no verdict", answer("""
while True:
    threading.Thread(target=time.sleep, args=(99,)).start()"""), "can't start new thread"),
    Attack(19, "leaves a process behind that keeps the conversation open", "no verdict", answer("""
if os.fork() == 0:
    os.setsid()
    time.sleep(9999)
return zeros(student_logits)"""), "BlockingIOError"),
    Attack(20, "asks for 64 GiB of tensor", "no verdict", answer("return torch.ones(1 << 34)"), "allocate memory"),
    Attack(20, "asks for 64 GiB of bytes", "no verdict", answer("return bytes(1 << 36)"), "MemoryError"),
    Attack(21, "maps memory that is shared", "no verdict", answer("""
maps = [mmap.mmap(-1, 1 << 28) for _ in range(64)]
return zeros(student_logits)"""), "Cannot allocate memory"),
    Attack(0, "keeps memory in segments that are not mapped", "no verdict", answer("""
libc = ctypes.CDLL(None)
assert libc.shmget(0, ctypes.c_size_t(1 << 28), 0o1600) >= 0, "refused"
return zeros(student_logits)"""), "AssertionError: refused"),
    Attack(0, "keeps memory in files without a name", "no verdict", answer("""
os.write(os.memfd_create("bomb"), bytes(1 << 20))
return zeros(student_logits)"""), "PermissionError"),
    Attack(22, "fills /tmp", "no verdict", answer("""
for number in range(10_000):
    Path(f"/tmp/{number}").write_bytes(bytes(1 << 20))
return zeros(student_logits)"""), "No space left"),
    Attack(22, "writes one large file", "no verdict", answer("""
with open("/tmp/large", "wb") as file:
    file.truncate(1 << 40)
return zeros(student_logits)"""), "File too large"),
    Attack(0, "raises its own limits", "no verdict", answer("""
import resource
resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))
return zeros(student_logits)"""), "not allowed to raise"),
    Attack(23, "loops", "no verdict", answer("while True: pass"), "no answer within"),
    Attack(23, "sleeps", "no verdict", answer("time.sleep(9999)"), "no answer within"),
    Attack(24, "ignores every signal and loops", "no verdict", answer("""
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass"""), "no answer within"),
    Attack(0, "loops while it is defined", "no verdict", before("""
class Loop:
    while True:
        pass"""), "no answer within"),
    # reaching others
    Attack(25, "kills every process and its parent", "wrong", answer("""
for pid in (-1, 1):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
return zeros(student_logits)""")),
    Attack(0, "kills its process group", "no verdict", answer("os.killpg(0, signal.SIGKILL)\nos._exit(0)")),
    Attack(0, "kills its process group, as 0", "wrong", answer("""
os.kill(0, signal.SIGKILL)
os.kill(os.getppid(), signal.SIGKILL)
return zeros(student_logits)""")),
    Attack(25, "stops itself", "wrong", answer("os.kill(os.getpid(), signal.SIGSTOP)\nreturn zeros(student_logits)")),
    Attack(26, "segmentation fault", "no verdict", answer("ctypes.string_at(0)"), "SIGSEGV"),
    Attack(0, "aborts", "no verdict", answer("os.abort()"), "(SIG"),
    Attack(0, "makes exit harmless and climbs back into the loop that forks", "no verdict", answer("""
os._exit = lambda code: None
raise KeyboardInterrupt""")),
    Attack(36, "calls a server", "no verdict", answer("socket.create_connection(('1.1.1.1', 53), 1)"),
           "PermissionError"),
    Attack(36, "listens on the loopback", "no verdict", answer("socket.create_server(('127.0.0.1', 0))"),
           "PermissionError"),
    Attack(36, "talks to a neighbour through an abstract socket", "no verdict", answer("""
socket.socket(socket.AF_UNIX).bind("\\0meet")
return zeros(student_logits)"""), "PermissionError"),
    Attack(37, "mounts the root writable", "no verdict", answer("""
libc = ctypes.CDLL(None)
if not hasattr(torch, "done"):  # it is called again for every input
    torch.done = [libc.mount(None, b"/", None, 32, None), libc.umount2(b"/proc", 0)]
assert 0 in torch.done, "refused"
return zeros(student_logits)"""), "AssertionError: refused"),
    Attack(37, "writes into torch", "no verdict", answer("""
with open(torch.__file__, "a") as file:
    file.write("allclose = lambda *a: True")"""), "Error: [Errno"),
    Attack(38, "makes a user namespace in which it is root", "no verdict", answer("""
torch.done = getattr(torch, "done", None) or [ctypes.CDLL(None).unshare(0x10000000)]
assert 0 in torch.done, "refused"
return zeros(student_logits)"""), "AssertionError: refused"),
    Attack(40, "reads what other descriptors are open", "no verdict", answer("""
found = []
for descriptor in range(4, 4096):
    try:
        found.append(os.fstat(descriptor))
    except OSError:
        pass
assert found, "nothing"
return zeros(student_logits)"""), "AssertionError: nothing"),
    # notebooks that are only odd
    Attack(42, "actions around a right answer", "correct", f"""
%matplotlib inline
!rm -rf /
import this_is_not_installed
{RIGHT}
while True: pass
raise SystemExit
os.kill(0, 9)
"""),
    Attack(0, "a literal of a million characters beside a right answer", "correct",
           f"answer_1 = '{'9' * 10**6}'\n{RIGHT}"),
]  # fmt: skip

# What is handed in as the file itself.
FILES = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe{}",
    "NUL": b"\0" * 1000,
    "a text": b'"correct"',
    "cells are an object": b'{"cells": {"a": 1}}',
    "source is a number": b'{"cells": [{"cell_type": "code", "source": 7}]}',
    "200 000 brackets": b"[" * 200_000,
    "100 000 signs": b'{"cells": [{"cell_type": "code", "source": "def distillation_loss(): return ' + b"-" * 100_000
    + b'1"}]}',
}  # fmt: skip

# What one student leaves, and what the next one would see.
LEAVES = answer("""
import builtins
builtins.mark = torch.mark = os.environ["MARK"] = "mark"
Path("/tmp/mark").write_text("mark")
return zeros(student_logits)""")
SEES = RIGHT.replace(
    "    p =",
    """\
    import builtins, os
    marks = [hasattr(builtins, "mark"), hasattr(torch, "mark"), "MARK" in os.environ, os.path.exists("/tmp/mark")]
    assert not any(marks), marks
    p =""",
)

"""The outside of the sandbox: submissions are asked in bubblewrap, and only numbers come back.

In one bubblewrap one process has imported torch (`zygote`); for each submission it forks a child with namespaces and
limits of its own. There is nothing to find in there: /usr, the interpreter, torch, numpy, scipy and what they require,
and the files of `SHARED`. A child knows no expected value, no mistake and no seed. What it sends is judged here.
"""

import importlib.metadata
import math
import os
import platform
import re
import shutil
import signal
import site
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .asking import answers, ask
from .spec import Choice, Question

HERE = Path(__file__).parent
SHARED = ("spec.py", "runner.py", "frames.py", "notebook.py", "child.py", "zygote.py")
PACKAGES = ("torch", "numpy", "scipy")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
PYTHON = ("--", os.path.realpath(sys._base_executable), "-SsBP", "-m", "jailed.zygote")
LARGEST = 1 << 20  # bytes of one answer
START = 120.0  # seconds in which torch must have been imported, once
# System calls denied by number, on x86-64 and on ARM: they keep memory that no limit counts, or what outlives a
# process, or are doors into the kernel that no answer needs.
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
DENIED = {
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282),
}  # fmt: skip
# all that the sandbox gets to know of ours
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    "PATH": "/usr/bin", "PYTHONPATH": "/jailed:/site", "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib",
    "HOME": "/tmp", "USER": "nobody", "LANG": "C.UTF-8",
}  # fmt: skip
REMEDY = """Ordinary users must be allowed to make namespaces.
  Ubuntu 24.04 and GitHub's runners: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
  elsewhere: sudo sysctl -w user.max_user_namespaces=10000 (old Debian: kernel.unprivileged_userns_clone=1)
  in a container: grade outside it, or start it with namespaces allowed"""


class Refused(ValueError):
    """Nothing is graded without the sandbox. The message says what is missing and how to get it."""


class _Lost(Exception):
    """The sandbox itself ended, or could not make a child: that says nothing about the submission."""


class Jail:
    """`with Jail() as jail: jail.answers(raw, questions, seed)`, also from several threads at once.

    `limit`: seconds for one question. Each submission in flight may take 2 GiB of memory beyond torch's own.
    """

    def __init__(self, limit: float = 10.0) -> None:
        if not limit > 0:
            raise ValueError(f"Jail: limit must be a positive number of seconds, got {limit}")
        self.limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> "Jail":
        self._running()
        return self

    def __exit__(self, *_: object) -> None:
        with self._starting:
            self._stop()

    def answers(self, raw: bytes, questions: Sequence[Question], seed: int) -> list[object]:
        """What a notebook's bytes answer, one entry a question, as `judge` wants it."""
        return answers(raw, questions, seed, self._talk)

    def _talk(self, request: bytes, count: int) -> tuple[list[bytes], str]:
        for _ in range(2):  # when the sandbox itself ends it is started again, once
            process, control = self._running()
            try:
                return _converse(control, request, count, self.limit)
            except _Lost:
                with self._starting:
                    if self._process is process:
                        self._stop()
        return [], "the sandbox ended twice while it was asked."

    def _running(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        with self._starting:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._start()
            return self._process, self._control

    def _start(self) -> None:
        command = _command()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as rules, tempfile.TemporaryFile() as errors:
            rules.write(_filter())
            rules.seek(0)
            self._control = ours
            self._process = subprocess.Popen(
                [*command, "--seccomp", str(rules.fileno()), *PYTHON, str(theirs.fileno())], env=ENVIRONMENT,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
                pass_fds=(theirs.fileno(), rules.fileno()), start_new_session=True,  # Ctrl-C is for the grader
            )  # fmt: skip
            theirs.close()
            try:
                ours.settimeout(START)
                if ours.recv(16) != b"ready":
                    errors.seek(0)
                    raise _Lost(errors.read().decode(errors="replace").strip().rpartition("\n")[2])
                _converse(ours, ask(b'{"cells": []}', [Choice("trial", "answer", "a", {})], 0), 1, START)
            except (_Lost, OSError) as error:
                self._stop()
                remedy = "" if "Error: " in str(error) else f"\n{REMEDY}"  # Python's own words are clear enough
                raise Refused(f"the sandbox does not start: {error}{remedy}") from None

    def _stop(self) -> None:
        if self._process is None:
            return
        self._control.close()  # the zygote ends, and with it all that is in the sandbox
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


def _converse(control: socket.socket, request: bytes, count: int, limit: float) -> tuple[list[bytes], str]:
    """What a new child says, at most `count` messages; where it is fewer, also why. The child does not survive it."""
    (ours, theirs), (witness, keeper) = socket.socketpair(), socket.socketpair()
    messages: list[bytes] = []
    why = report = ""
    with ours, witness:
        with theirs, keeper:
            try:
                seconds = math.ceil(limit * count) + 1
                socket.send_fds(control, [b"%d" % seconds], [theirs.fileno(), keeper.fileno()])
            except OSError as error:
                raise _Lost(str(error)) from None
        try:
            ours.settimeout(limit)
            ours.sendall(request)
            ours.shutdown(socket.SHUT_WR)
            while len(messages) < count:
                messages.append(_message(ours, limit))
        except TimeoutError:
            why = f"no answer within {limit:g} s."
        except ValueError as error:
            why = str(error)
        except OSError:
            why = "it ended the process that was asked{}."
        try:
            witness.settimeout(START)
            witness.shutdown(socket.SHUT_WR)  # now the keeper kills what is left
            while part := witness.recv(300):
                report += part.decode(errors="replace")
        except OSError:
            pass
    word, _, code = report.partition(" ")
    if word != "ended":
        raise _Lost(code or "it ended")
    ended_by = next((f" ({known.name})" for known in signal.Signals if known == -int(code)), "")
    return messages, why.format(ended_by)


def _message(talk: socket.socket, limit: float) -> bytes:
    """The next message: its length, and what was promised."""
    deadline, data, size = time.monotonic() + limit, bytearray(), 4
    while len(data) < size:
        talk.settimeout(max(deadline - time.monotonic(), 1e-3))
        part = talk.recv(min(size - len(data), 1 << 16))
        if not part:
            raise ConnectionError(f"_message: {size} bytes were promised, got {len(data)}")
        data += part
        if len(data) == 4:
            size += int.from_bytes(data, "little")
            if size > 4 + LARGEST:
                raise ValueError("its answer is larger than 1 MiB.")
    return bytes(data[4:])


def _command() -> list[str]:
    if 0 in (os.getuid(), os.geteuid()):
        raise Refused("root is refused: the limits of a sandbox do not hold for root. Give the same command as an "
                      "ordinary user: runuser -u NAME -- kdcourse ... (a new user: adduser NAME)")  # fmt: skip
    if not (bwrap := shutil.which("bwrap")):
        raise Refused("bubblewrap is missing: sudo apt-get install bubblewrap")
    spaces = ("user", "pid", "net", "ipc", "uts", "cgroup-try")
    command = [bwrap, *(f"--unshare-{space}" for space in spaces), "--uid", "65534", "--gid", "65534"]
    command += ["--proc", "/proc", "--tmpfs", "/tmp"]
    trees = [Path(tree) for tree in ("/usr", "/lib", "/lib64", sys.base_prefix) if Path(tree).exists()]
    for tree in dict.fromkeys(trees):
        if tree.is_symlink():
            command += ["--symlink", os.readlink(tree), str(tree)]
        elif tree == trees[0] or not tree.is_relative_to(trees[0]):
            command += ["--ro-bind", str(tree), str(tree)]
    # Where packages lie in one of these trees, or this repository does, it is covered.
    covered = {*site.getsitepackages([sys.base_prefix]), sysconfig.get_path("purelib"), str(HERE.parents[1])}
    for folder in sorted(covered):
        if Path(folder).is_dir() and any(Path(folder).resolve().is_relative_to(tree.resolve()) for tree in trees):
            command += ["--tmpfs", folder]
    shared = {source: f"/site/{source.name}" for source in _packages()}
    shared |= {HERE / name: f"/jailed/jailed/{name}" for name in SHARED}
    for source, target in shared.items():
        command += ["--ro-bind", str(source), target]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    for loader in ("/etc/ld.so.cache", "/etc/alternatives"):
        command += ["--ro-bind-try", loader, loader]
    return [*command, "--remount-ro", "/", "--chdir", "/"]


def _packages() -> list[Path]:
    """The folders and files of `PACKAGES` and of all that they require."""
    found: set[Path] = set()
    names, seen = list(PACKAGES), set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another system, or not installed: the import says so
            continue
        names += [re.split(r"[^\w.-]", line)[0] for line in package.requires or () if "extra ==" not in line]
        listed = (package.read_text("RECORD") or name).splitlines()
        tops = {re.split("[/,]", line)[0] for line in listed} - {"", "..", "__pycache__"}
        paths = [Path(str(package.locate_file(top))) for top in tops if not top.endswith(".dist-info")]
        found.update(path for path in paths if path.exists())
    return sorted(found)


def _filter() -> bytes:
    """`DENIED` as a program for the kernel (seccomp): such a call returns EPERM."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        raise Refused("the sandbox needs Linux on x86-64 or ARM, such as a virtual machine or WSL2")
    numbers = [pair[list(MACHINES).index(machine)] for pair in DENIED.values()]
    load, if_equal, if_at_least, finish = 0x20, 0x15, 0x35, 0x06
    program = [(load, 0, 0, 4), (if_equal, 0, len(numbers) + 3, MACHINES[machine]), (load, 0, 0, 0)]
    program += [(if_at_least, len(numbers) + 1, 0, 0x40000000)]  # the same calls under their other numbers (x32)
    program += [(if_equal, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program += [(finish, 0, 0, 0x7FFF0000), (finish, 0, 0, 0x00050001)]  # allow; deny
    return b"".join(struct.pack("<HBBI", *step) for step in program)

"""What runs inside the sandbox: a process that has imported torch once, and two more for each submission.

The *keeper* makes namespaces for one submission, ends it when the judge's side says so, and reports how it ended. The
*child* gives up all that can be given up, and only then reads the request. It holds one descriptor: the conversation.
"""

import ctypes
import importlib
import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from .child import reply

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_USERS, NEW_PIDS = 0x00020000, 0x10000000, 0x20000000
NOSUID_NODEV_NOEXEC = 0b1110
SET_PARENT_DEATH_SIGNAL, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38
MORE_MEMORY, FILE_BYTES = 2 << 30, 1 << 20
LOADED = ("torch.optim", "torch._dynamo", "scipy.stats")  # what answers import, or torch itself at its first use


def main() -> None:
    """Serve until the judge's side closes the control socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    torch.set_num_threads(1)
    for module in LOADED:
        with suppress(ImportError):
            importlib.import_module(module)
    layer = torch.nn.Linear(2, 2)  # what is made at first use, so that no submission pays for it
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).log_softmax(-1).sum().backward()
    optimizer.step()
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MORE_MEMORY
    if len(os.listdir("/proc/self/task")) > 1:
        sys.exit("zygote: one thread is right, since only one survives a fork")
    signal.signal(signal.SIGCHLD, _reap)
    control.send(b"ready")
    while True:
        seconds, descriptors, _, _ = socket.recv_fds(control, 16, 2)
        if not seconds:
            os._exit(0)  # nothing here is worth a second of tidying up
        if os.fork() == 0:
            control.close()
            _keep(*descriptors, int(seconds), memory)
        for descriptor in descriptors:
            os.close(descriptor)


def _reap(*_: object) -> None:
    """Keepers that ended: waited for, since the time of those that are ignored is counted nowhere."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(conversation: int, witness: int, seconds: int, memory: int) -> NoReturn:
    """One submission, from its namespaces to its end. What is reported: "ended CODE", or "refused" and why."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        user, group = os.getuid(), os.getgid()
        _call("unshare", NEW_USERS | NEW_PIDS | NEW_MOUNTS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)
        Path("/proc/sys/user/max_user_namespaces").write_text("0")  # it cannot make one in which it has powers
        for place, options in ((b"/proc", b"size=4k,mode=555"), (b"/tmp", b"size=8m,nr_inodes=256,mode=700")):
            _call("mount", b"tmpfs", place, b"tmpfs", ctypes.c_ulong(NOSUID_NODEV_NOEXEC), options)
        child = os.fork()
        if child == 0:
            _give_up(seconds, memory)
            _answer(conversation)
        os.close(conversation)
        poll = select.poll()
        for descriptor in (os.pidfd_open(child), witness):
            poll.register(descriptor, select.POLLIN)
        poll.poll()  # it ended, or the judge's side has closed its half
        os.kill(child, signal.SIGKILL)
        report = f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"
    except OSError as error:
        report = f"refused {error}"
    os.write(witness, report.encode())
    os._exit(0)


def _give_up(seconds: int, memory: int) -> None:
    os.setsid()  # or kill(0, ...) would reach the keeper and all above it: groups know no namespaces
    limits = {"NPROC": 1, "AS": memory, "FSIZE": FILE_BYTES, "CPU": seconds, "NOFILE": 32, "CORE": 0}
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    for option, value in ((SET_PARENT_DEATH_SIGNAL, 9), (SET_DUMPABLE, 0), (SET_NO_NEW_PRIVS, 1)):
        _call("prctl", option, value, 0, 0, 0)
    _call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # version 3; no capability in any set


def _answer(conversation: int) -> NoReturn:
    """From here on everything may be the submission's."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((nowhere, nowhere, nowhere, conversation)):
            os.dup2(descriptor, number)
        os.closerange(4, 1 << 16)
        talk = socket.socket(fileno=3)
        with talk.makefile("rb") as request:
            data = request.read()
        reply(data, talk.sendall)
    finally:
        os._exit(0)


def _call(name: str, *arguments: object) -> None:
    if getattr(LIBC, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()

"""A worker whose requests break it on purpose: the name of the model says how. Run by test_sandbox.py as a server."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from snnc.importer import worker
from snnc.ir import Array

Answer = tuple[dict[str, Any], list[Array]]
honest = worker.respond


def respond(request: dict[str, Any]) -> Answer:
    """The honest answer, unless the name of the model is that of a function here."""
    how = Path(request["path"]).stem
    return HOW[how]() if how in HOW else honest(request)


def spin() -> Answer:
    while True:
        pass


def sleep() -> Answer:
    time.sleep(3600)
    return {}, []


def deaf() -> Answer:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return sleep()


def fill() -> Answer:
    kept = []
    while True:
        kept.append(bytearray(2**24))


def fault() -> Answer:
    raise RuntimeError("first line\nsecond line \x1b[31m")


def write() -> Answer:
    path = Path(os.environ["SNNC_TEST_FOLDER"], "written")
    path.write_bytes(b"x" * 10_000)
    return {"digest": "written"}, []


def kill(number: int) -> Answer:
    os.kill(os.getpid(), number)
    time.sleep(10)
    return {}, []


def garbage() -> Answer:
    os.write(ANSWER(), b"\x7f" * 100)
    os._exit(0)


def part() -> Answer:
    os.write(ANSWER(), (1000).to_bytes(8, "big") + b"{")
    os._exit(0)


def large() -> Answer:
    return {"findings": [], "notes": [], "graph": "", "arrays": [["w", "float32", [2**40]]]}, []


def strange() -> Answer:
    return {"findings": [], "notes": [], "graph": "", "arrays": [["w", "object", [1]]]}, []


def no_graph() -> Answer:
    return {"findings": [], "notes": [], "graph": "snnc-graph 1\nnonsense\n", "arrays": []}, []


def ANSWER() -> int:  # noqa: N802
    """The pipe for the answer: the highest descriptor that is open."""
    return max(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}"))  # noqa: PTH110, PTH208


HOW = {
    "spin": spin,
    "sleep": sleep,
    "deaf": deaf,
    "fill": fill,
    "fault": fault,
    "write": write,
    "abort": lambda: kill(signal.SIGABRT),
    "segv": lambda: kill(signal.SIGSEGV),
    "killed": lambda: kill(signal.SIGKILL),
    "garbage": garbage,
    "part": part,
    "large": large,
    "strange": strange,
    "no-graph": no_graph,
}

if __name__ == "__main__":
    worker.respond = respond
    worker.serve(socket.socket(fileno=os.dup(0)))

"""The caller's side of `snnc.importer.worker`: starts it on first use, asks, and turns its end into typed errors.

Nothing of a model is parsed in this process. One server per process: a fork of the caller starts its own.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnc.errors import GraphError, ModelError

from .options import DEFAULT, Limits, Options, raising
from .wire import PATIENCE, STARVED, GarbledError, error_from_json, framed, import_from_json, options_to_json, unframed

if TYPE_CHECKING:
    from .build import Import

MODULE = "snnc.importer.worker"
WITHIN = "SNNC_READS_MODELS"
"""Set in the environment of a worker, which must never start another."""
GRACE = 5.0
"""Seconds beyond the child's own alarm before the caller itself ends the server."""


@dataclass(frozen=True)
class Usage:
    """How the process that read a model ended (0, or minus the signal), its seconds of processor, its peak of bytes."""

    code: int
    cpu: float
    peak: int


@dataclass(frozen=True)
class Reply:
    """What came back: either `error`, or what the task makes."""

    usage: Usage
    error: ModelError | None = None
    made: Import | None = None
    digest: str = ""


class _LostError(Exception):
    """The server is gone."""


@dataclass(eq=False)
class _Server:
    """A running worker."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def close(self, kill: bool = False) -> None:
        """End it: the end of the socket is its end, unless a child keeps it busy."""
        self.control.close()
        try:
            if kill:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(2.0)
        except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


@dataclass(eq=False)
class _State:
    """The server of this process, and who may talk to it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    server: _Server | None = None
    inherited: list[_Server] = field(default_factory=list)

    def forget(self) -> None:
        """In a fork of the caller: the server belongs to the original, and the lock may be held by nobody."""
        self.lock = threading.Lock()
        if self.server is not None:
            self.server.control.close()
            self.inherited.append(self.server)  # kept, because dropping a running process warns
            self.server = None

    def stop(self, kill: bool = False) -> None:
        """End the server, if there is one."""
        server, self.server = self.server, None
        if server is not None:
            server.close(kill)


_state = _State()
os.register_at_fork(after_in_child=_state.forget)
atexit.register(_state.stop, kill=True)


def examine(path: str | Path, options: Options = DEFAULT) -> Import:
    """What becomes of an ONNX model: its graph if every node can be imported, a finding per node, notes.

    Raises:
        ModelError: the file is no readable model.
    """
    made = _answered(ask("examine", path, options)).made
    assert made is not None
    return made


def model_digest(path: str | Path, options: Options = DEFAULT) -> str:
    """SHA-256 over the model file, then location and SHA-256 of each external data file, sorted by location.

    Without external data it is what `sha256sum` prints.

    Raises:
        ModelError: the file, or an external data file, cannot be read.
    """
    return _answered(ask("digest", path, options)).digest


def ask(task: str, path: str | Path, options: Options = DEFAULT) -> Reply:
    """Have `task` ("examine" or "digest") done to the model at `path` in a limited process.

    Raises:
        ModelError: no such process can be started.
    """
    request = framed({"task": task, "path": _absolute(path), "options": options_to_json(options)})
    with _state.lock:
        for attempt in (1, 2):
            try:
                return _exchange(request, options.limits)
            except _LostError as lost:
                _state.stop(kill=True)
                if attempt == 2:
                    hint = f"see what it says: {sys.executable} -P -c 'import {MODULE}'"
                    message = f"the process that reads models cannot be run: {lost}"
                    raise ModelError(message, hint=hint, code="worker") from None
            except BaseException:  # Ctrl-C, or a mistake: whatever the server still does is for nobody
                _state.stop(kill=True)
                raise
    raise AssertionError("unreachable")


def _answered(reply: Reply) -> Reply:
    if reply.error is not None:
        raise reply.error
    return reply


def _absolute(path: str | Path) -> str:
    """Joined by hand: `os.path.abspath` cuts a path at a NUL in some versions of Python."""
    text = os.fsdecode(path)
    try:
        return text if text.startswith("/") else os.path.join(os.getcwd(), text)  # noqa: PTH109, PTH118
    except OSError:  # the working folder is gone
        return text


def _start() -> _Server:
    """A new worker, which finds its modules where this process does, and none in the working folder (`-P`).

    A script that bears the name of a module that the worker needs runs in there; it must not start the next one.

    Raises:
        ModelError: this process is a worker.
    """
    if WITHIN in os.environ:
        hint = "a file beside your script may have the name of a module of Python"
        raise ModelError("a model is read within the process that reads models", hint=hint)
    folders = [str(Path(entry or ".").absolute()) for entry in sys.path]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, WITHIN: "1", "PYTHONPATH": os.pathsep.join(folders)}
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise _LostError(str(error)) from None
    return _Server(process, ours)


def _exchange(request: bytes, limits: Limits) -> Reply:
    if _state.server is None:
        _state.server = _start()
    server = _state.server
    deadline = time.monotonic() + limits.cpu_seconds * PATIENCE + GRACE
    out, into = os.pipe()
    try:
        try:
            sent = socket.send_fds(server.control, [request[:1]], [into])
            server.control.sendall(request[sent:])
        except OSError as error:
            raise _LostError(str(error)) from None
        finally:
            os.close(into)
        answer, failure = _answer(out, deadline, limits)
    finally:
        os.close(out)
    if isinstance(failure, _LateError):
        _state.stop(kill=True)
        return Reply(Usage(-signal.SIGKILL, 0.0, 0), _too_long(limits))
    usage = _usage(server, deadline)
    if usage.code != 0:
        return Reply(usage, _ended(usage, limits))
    if failure is not None or answer is None:
        return Reply(usage, _mad(str(failure)))
    return Reply(usage, answer.error, answer.made, answer.digest)


class _LateError(Exception):
    """The answer does not come."""


def _answer(out: int, deadline: float, limits: Limits) -> tuple[Reply | None, Exception | None]:
    """The answer in the pipe, read to its end; what is wrong with it waits until it is known how the child ended."""
    read = _reader(out, deadline)
    try:
        header = unframed(read)
        return _reply(header, read, limits), None
    except (GarbledError, GraphError, EOFError, _LateError, KeyError, TypeError, ValueError) as error:
        return None, error


def _reply(header: Mapping[str, Any], read: Any, limits: Limits) -> Reply:
    nothing = Usage(0, 0.0, 0)
    if "error" in header:
        return Reply(nothing, error=error_from_json(header["error"]))
    if "digest" in header:
        return Reply(nothing, digest=str(header["digest"]))
    return Reply(nothing, made=import_from_json(header, read, limits.memory_bytes))


def _reader(descriptor: int, deadline: float) -> Any:
    """A function that fills memory from a pipe or socket."""
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)

    def read(target: memoryview) -> None:
        done = 0
        while done < len(target):
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(min(left, 3600.0) * 1000):
                if deadline <= time.monotonic():
                    raise _LateError("the answer does not come")
                continue
            count = os.readv(descriptor, [target[done:]])
            if not count:
                raise EOFError("the answer breaks off")
            done += count

    return read


def _usage(server: _Server, deadline: float) -> Usage:
    """How the child ended, from the server, which sends nothing else."""
    try:
        found = unframed(_reader(server.control.fileno(), deadline))
        return Usage(int(found["code"]), float(found["cpu"]), int(found["peak"]))
    except (GarbledError, EOFError, OSError, KeyError, _LateError) as error:
        raise _LostError(str(error) or "it ended") from None


def _ended(usage: Usage, limits: Limits) -> ModelError:
    """The error of a model whose process was ended from outside, or broke."""
    hint = raising("cpu_seconds")
    if usage.code == -signal.SIGXCPU or (usage.code == -signal.SIGKILL and usage.cpu >= limits.cpu_seconds):
        message = f"reading the model takes more than {limits.cpu_seconds} seconds of processor time"
        return ModelError(message, hint=hint, code="cpu-limit")
    if usage.code == -signal.SIGALRM:
        return _too_long(limits)
    if usage.code == STARVED:
        message = f"reading the model takes more memory than {limits.memory_bytes} bytes"
        return ModelError(message, hint=raising("memory_bytes"), code="memory-limit")
    if usage.code > 0:
        return _mad("it failed while answering")
    name = signal.Signals(-usage.code).name
    message = f"reading the model broke the process that read it ({name}); {usage.peak} bytes of memory were used"
    hint = "if that is near the limit memory_bytes, raise it; else the file is damaged or hostile"
    return ModelError(message, hint=hint, code="crash")


def _too_long(limits: Limits) -> ModelError:
    message = f"reading the model takes longer than {limits.cpu_seconds * PATIENCE} seconds"
    return ModelError(
        message,
        hint=raising("cpu_seconds") + "; its file system may be slow",
        code="time-limit",
    )


def _mad(reason: str) -> ModelError:
    return ModelError(f"the process that read the model gave no sense: {reason}", code="internal")

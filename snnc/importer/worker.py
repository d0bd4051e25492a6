"""The process that reads models: a server that forks one limited child per request, so that a model that crashes,
hangs or fills the memory takes only the child with it.

    python -P -m snnc.importer.worker      with a socket as standard input

A request is JSON and, beside it, the descriptor of a pipe for the answer; when the child has ended the server sends
how it ended and what it took. The server ends when the socket does. Torch is never loaded here.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
from typing import Any, NoReturn

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from snnc.errors import ModelError, SnncError, printable
from snnc.ir import Array

from .build import Import, build
from .files import model_digest, open_model
from .options import Limits, Options, raising
from .wire import (
    FAILED,
    PATIENCE,
    STARVED,
    array_bytes,
    error_to_json,
    framed,
    import_to_json,
    options_from_json,
    unframed,
)

BEYOND = 2**31 - 1
"""Seconds that no timer is set beyond."""


def examine_here(path: str, options: Options) -> Import:
    """What becomes of the model at `path`, in this process and without limits on it.

    Raises:
        ModelError: the file is no readable model.
    """
    loaded = open_model(path, options)
    made = build(loaded, options)
    return Import(made.graph, made.findings, loaded.notes + made.notes)


def respond(request: dict[str, Any]) -> tuple[dict[str, Any], list[Array]]:
    """The answer to a request, which is an error's where there is one: no exception leaves this function."""
    try:
        options = options_from_json(request["options"])
        if request["task"] == "digest":
            return {"digest": model_digest(request["path"], options)}, []
        return import_to_json(examine_here(request["path"], options))
    except SnncError as error:
        return {"error": {**error_to_json(error), "code": error.code or "graph"}}, []
    except MemoryError:
        return {"error": error_to_json(out_of_memory(options.limits))}, []
    except BaseException as error:  # a mistake of ours or of onnx must not look like a crash
        reason = printable(f"{type(error).__name__}: {error}".split("\n")[0], 300)
        hint = "a mistake of snnc or onnx, not of yours: report it with the model"
        return {"error": error_to_json(ModelError(f"reading failed: {reason}", hint=hint, code="internal"))}, []


def out_of_memory(limits: Limits) -> ModelError:
    """The error of a model that needs more memory than it may take."""
    message = f"reading the model takes more memory than {limits.memory_bytes} bytes"
    return ModelError(message, hint=raising("memory_bytes"), code="memory-limit")


def limit(limits: Limits) -> None:
    """Bind this process: memory, processor, time; it may write no file and leave no core.

    A limit that the system does not have (macOS knows no address space) is left out.
    """
    wanted = {
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_AS": (limits.memory_bytes, limits.memory_bytes),
        "RLIMIT_CPU": (limits.cpu_seconds, limits.cpu_seconds + 1),
    }
    for name, (soft, hard) in wanted.items():
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        highest = resource.getrlimit(kind)[1]
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        try:
            resource.setrlimit(kind, (min(soft, 2**63 - 1), min(hard, 2**63 - 1)))
        except (ValueError, OSError):
            continue
    signal.alarm(min(limits.cpu_seconds * PATIENCE, BEYOND))


def serve(control: socket.socket) -> None:
    """Answer requests until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm_up()
    gc.freeze()
    while (received := _receive(control)) is not None:
        request, answer = received
        child = os.fork()
        if child == 0:
            _child(request, answer, control)
        os.close(answer)
        _, status, usage = os.wait4(child, 0)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        ended = {"code": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime + usage.ru_stime, "peak": peak}
        control.sendall(framed(ended))


def _receive(control: socket.socket) -> tuple[dict[str, Any], int] | None:
    """The next request and where its answer goes; None at the end."""
    answers: list[int] = []

    def read(target: memoryview) -> None:
        done = 0
        while done < len(target):
            data, found, _, _ = socket.recv_fds(control, len(target) - done, 1)
            answers.extend(found)
            if not data:
                raise EOFError
            target[done : done + len(data)] = data
            done += len(data)

    try:
        request = unframed(read)
    except (EOFError, OSError):
        return None
    return request, answers[0]


def _child(request: dict[str, Any], answer: int, control: socket.socket) -> NoReturn:
    """Answer one request; the end of this process is the end of the answer."""
    code = FAILED
    try:
        _quiet(control)
        sys.dont_write_bytecode = True
        limit(options_from_json(request["options"]).limits)
        header, arrays = respond(request)
        with os.fdopen(answer, "wb", buffering=0) as file:
            for part in (memoryview(framed(header)), *array_bytes(arrays)):
                done = 0
                while done < len(part):
                    done += file.write(part[done:]) or 0
        code = 0
    except MemoryError:
        code = STARVED
    finally:
        os._exit(code)


def _quiet(control: socket.socket) -> None:
    """Nothing of a model, nor what C++ prints about it, reaches the terminal or the other requests."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in {0, 1, 2, control.fileno()}:
        os.dup2(null, descriptor)
    os.close(null)


def _warm_up() -> None:
    """Load what onnx loads only when it is first used, so that no child has to."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "warm", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    ReferenceEvaluator(model).run(None, {"x": np.zeros(1, np.float32)})


if __name__ == "__main__":
    serve(socket.socket(fileno=os.dup(0)))

"""Several processes train one network, on torch's own engine: `torchrun --nproc-per-node N -m snnc compile ...`.

Every process runs the whole pipeline, which is deterministic. In training each takes its share of every batch, in the
order that a single process has; gradients are added up, weighted by the share, so that every update is the single
process's up to the rounding of sums, and the same in all. The first process alone judges, saves, prints and writes.
What a rule leaves to chance within an update is drawn alike in all of them, so it must not depend on how many samples
there are; nor may the gradient of one sample depend on the others of its batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from snnc.errors import PipelineError
from snnc.ir import Array

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells every process."""
PATIENCE = timedelta(hours=24)
"""How long a process waits for others, which may be judging; one that ends is noticed at once."""
FAILED = "snnc/failed"
_stores: list[Any] = []


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process beside others."""
    return all(name in environment for name in LAUNCHED) and environment["WORLD_SIZE"] != "1"


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Join the other processes, where torchrun started several.

    Raises:
        PipelineError: they cannot be reached.
    """
    if not launched(environment):
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise PipelineError(f"the {environment['WORLD_SIZE']} processes do not find each other: {error}") from None
    _stores.append(store)
    yield
    dist.destroy_process_group()
    _stores.clear()


def own_device(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """The device of this process: of several, each has a GPU of its own.

    Raises:
        PipelineError: several processes are told to use several devices each.
    """
    check_alone(device)
    if processes() == 1 or device != "cuda":
        return device
    device = f"cuda:{environment['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    return device


def check_alone(device: str) -> None:
    """Refuse several devices where there are several processes.

    Raises:
        PipelineError: says so.
    """
    if processes() > 1 and "," in device:
        raise PipelineError(
            f"{processes()} processes share one training; each has one device, not {device}",
            hint="--device cuda, one GPU for each process, or one process with all of them",
        )


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this process is, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that judges, saves, prints and writes."""
    return rank() == 0


def first_to_fail() -> bool:
    """Whether no other process has asked this before: one mistake, which all of them meet, is told once."""
    try:
        return not _stores or _stores[0].add(FAILED, 1) == 1
    except RuntimeError:  # whoever kept the store has ended
        return True


def share(batch: Array) -> Array:
    """This process's samples of a batch [n, ...], in order; there may be none."""
    return np.array_split(batch, processes())[rank()] if processes() > 1 else batch


def add_up(tensors: list[Tensor], weight: float) -> None:
    """Every tensor becomes the sum of those of all processes, each times its `weight`.

    Raises:
        PipelineError: another process has ended.
    """
    if processes() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) * weight
    with _company():
        dist.all_reduce(flat)
    for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def on_first(make: Callable[[], bytes]) -> bytes:
    """What the first process makes, in all of them.

    Raises:
        PipelineError: another process has ended.
    """
    if processes() == 1:
        return make()
    made = make() if is_first() else b""
    size = torch.tensor([len(made)])
    with _company():
        dist.broadcast(size, 0)
        data = torch.from_numpy(np.frombuffer(made, np.uint8).copy()) if is_first() else torch.zeros(int(size)).byte()
        dist.broadcast(data, 0)
    return data.numpy().tobytes()


def agree(text: str, about: str) -> None:
    """Make sure that all processes have the same `text`.

    Raises:
        PipelineError: they have not; or one has ended.
    """
    if on_first(text.encode) != text.encode():
        raise PipelineError(f"{about} is not the same in all processes", hint="the same files and versions everywhere")


@contextmanager
def _company() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PipelineError("another process of this training has ended", hint=f"see what it says ({reason})") from None

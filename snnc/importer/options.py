"""How a model is to be read: its batch, its open sizes, and how much of the machine it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from snnc.errors import ModelError


@dataclass(frozen=True)
class Limits:
    """What an untrusted model may take; every one can be raised by the user, and each error names the one it hit.

    Attributes:
        file_bytes: of the model with its external data; protobuf itself cannot hold more than 2**31 - 1.
        nodes: after functions are inlined.
        nesting: of graphs within graphs, functions within functions.
        name_bytes: of one name.
        fold_bytes: of one constant computed from others.
        memory_bytes: address space of the process that reads the model.
        cpu_seconds: of that process.
    """

    file_bytes: int = 2**31 - 1
    nodes: int = 100_000
    nesting: int = 8
    name_bytes: int = 1024
    fold_bytes: int = 256 * 2**20
    memory_bytes: int = 4 * 2**30
    cpu_seconds: int = 60

    def __post_init__(self) -> None:
        if bad := [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if not getattr(self, f.name) >= 1]:
            raise ModelError(f"limits must be at least 1: {', '.join(bad)}", code="limits")


def raising(limit: str) -> str:
    """What to try where a limit is hit."""
    return f"raise the limit {limit} (--limit {limit}=NUMBER)"


@dataclass(frozen=True)
class Options:
    """What the file does not say.

    Attributes:
        batched: the first axis of every input and output is the batch. Where it is not, the whole tensor is one
            sample: the graph's shapes are then those of the model.
        shapes: sizes of inputs by their name in the model, without batch (with `batched=False` all of them), where
            the model leaves them open.
        outputs: the outputs to keep, by their name in the model; all of them where it is empty. What only the others
            need is not looked at.
        limits: what reading it may take.
    """

    batched: bool = True
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for name, shape in self.shapes.items():
            if any(size < 1 for size in shape):
                raise ModelError(f"sizes {list(shape)} of the input '{name}': all must be at least 1", code="shape")


DEFAULT = Options()
"""A first axis that is the batch, sizes as the model has them, and the limits of untrusted input."""

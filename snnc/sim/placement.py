"""One network on several devices, part by part: `device` is then a list, "cuda:0,cuda:1".

The nodes, in order, are cut before convolutions and dense layers into as many contiguous parts as there are devices, of
about equal bytes. A node counts as

    4 * (4 * params + 64 * T * elements of its value)

bytes: weights with their gradient and the two moments of Adam, and the values of 64 samples at all T steps (analog
ones at one). It is an estimate of what training holds, not a measurement: batches may have another size, and rules that
keep nothing over time hold less. Part i lies on device i; a param that several parts use lies with the first.

The place of the params is all that is ever asked for. A node computes where its params lie, one without params where
the latest of its inputs was made, and other inputs are moved there; autograd moves gradients back. So one device or
many, an executor runs the same operations in the same order, and nothing of the placement is in a checkpoint.

Tested on logical devices that compute on a CPU (tests/sim/machine.py). Never run on several GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from snnc.errors import PipelineError
from snnc.ir import LAYERS, Graph, Node, roles

COPIES = 4
SAMPLES = 64
BYTES = 4
"""Of a float32."""


def names(device: str) -> tuple[str, ...]:
    """The devices of a list of them, one or more, `cuda` being `cuda:0` where there are several."""
    found = tuple(name.strip() for name in device.split(","))
    return tuple(f"{name}:0" if name in _types() - {"cpu"} else name for name in found) if len(found) > 1 else found


def first(device: str) -> str:
    """The device that inputs are sent to, and where all runs that is not split."""
    return names(device)[0]


def kinds(device: str) -> str:
    """The kinds of devices of a list, without numbers: what results may depend on."""
    return ",".join(sorted({name.partition(":")[0] for name in names(device)}))


def existing() -> tuple[str, ...]:
    """The devices that torch finds on this machine."""
    accelerator = torch.accelerator.current_accelerator()
    count = 0 if accelerator is None else torch.accelerator.device_count()
    return ("cpu", *(f"{accelerator}:{number}" for number in range(count)))


def check(device: str) -> None:
    """Refuse devices that torch cannot compute on, and the same one twice.

    Raises:
        PipelineError: names all that are wrong, and those that there are.
    """
    given, there = names(device), existing()
    usable = {*there, *_types()}
    once = dict.fromkeys(given)
    problems = [f"torch cannot compute on '{name}'" for name in once if name not in usable]
    problems += [f"'{name}' is named {given.count(name)} times" for name in once if given.count(name) > 1]
    if problems:
        hint = f"there are {', '.join(there)}" if len(there) > 1 else f"{there[0]}, the only one here"
        raise PipelineError("; ".join(problems), hint=hint)


def _types() -> set[str]:
    """The kinds of devices that there are: the name of one without a number is its first."""
    return {name.partition(":")[0] for name in existing()}


def size(graph: Graph, node: Node) -> int:
    """The bytes that a node counts as; its params, too, if another node has them."""
    params = sum(graph.params[name].size for name in roles(node, graph.params).values())
    steps = 1 if node.type.kind == "analog" else graph.steps
    return BYTES * (COPIES * params + SAMPLES * steps * math.prod(node.type.shape))


def parts(graph: Graph, count: int) -> list[list[Node]]:
    """The nodes in order, in `count` contiguous parts of about equal bytes; small networks may leave some empty."""
    found: list[list[Node]] = [[] for _ in range(count)]
    sizes = [sum(size(graph, node) for node in block) for block in _blocks(graph)]
    before, total = 0, max(sum(sizes), 1)
    for block, mine in zip(_blocks(graph), sizes, strict=True):
        found[min(count * (2 * before + mine) // (2 * total), count - 1)] += block
        before += mine
    return found


def _blocks(graph: Graph) -> list[list[Node]]:
    """The nodes in order, cut before every layer of weights but the first."""
    found: list[list[Node]] = [[]]
    seen = False
    for node in graph.nodes:
        if node.op in LAYERS and seen:
            found.append([])
        seen = seen or node.op in LAYERS
        found[-1].append(node)
    return found


def homes(graph: Graph, device: str) -> dict[str, str]:
    """The device of every param, by name."""
    devices = names(device)
    found: dict[str, str] = {}
    if len(devices) > 1:
        for name, part in zip(devices, parts(graph, len(devices)), strict=True):
            for node in part:
                found.update({param: name for param in roles(node, graph.params).values() if param not in found})
    return {param: found.get(param, devices[0]) for param in graph.params}


def places(graph: Graph, params: Mapping[str, Tensor], x: Mapping[str, Tensor]) -> dict[str, torch.device]:
    """Where every node computes, by name; empty if all is on one device.

    Args:
        params: by param name, on their devices.
        x: the graph's inputs, on theirs.
    """
    given = {name: x[name].device for name in graph.inputs if name in x}
    if len({*given.values(), *(param.device for param in params.values())}) < 2:
        return {}
    order = {name: number for number, name in enumerate([*graph.inputs, *(node.name for node in graph.nodes)])}
    found = dict(given)
    for node in graph.nodes:
        own = [params[name].device for name in roles(node, graph.params).values()]
        found[node.name] = own[0] if own else found[max(graph.values(node), key=order.__getitem__)]
    return found


def moved(value: Tensor, place: torch.device | None) -> Tensor:
    """The value at a place; itself if it is there, or if there is only one."""
    return value if place is None or value.device == place else value.to(place)


def listed(graph: Graph, device: str) -> str:
    """In words: which layers lie on which of several devices."""
    devices = names(device)
    return "; ".join(
        f"{name}: {_ends(part)}, {sum(size(graph, node) for node in part) / 1e6:.3g} MB estimated"
        if part else f"{name}: nothing"
        for name, part in zip(devices, parts(graph, len(devices)), strict=True)
    )  # fmt: skip


def _ends(part: list[Node]) -> str:
    """The first and the last node."""
    return part[0].name if len(part) == 1 else f"{part[0].name} to {part[-1].name}"

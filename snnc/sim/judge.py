"""How far a graph is from its teacher, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from snnc.ir import Graph, Samples
from snnc.score import accuracy as accuracy

from .ideal import in_weight_steps
from .placement import first
from .torch import exact, forward, per_channel, tensors, to_tensor

LAYER_SAMPLES = 64
"""Samples that the layers' errors are measured on."""


def activations(
    graph: Graph, x: Mapping[str, torch.Tensor], params: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """By node name: the activation of every relu, and count * theta of every layer of neurons, [N, ...]."""
    found = {}
    values = forward(graph, params, x, keep=lambda node: node.op in ("relu", "lif"))
    for node in graph.nodes:
        if node.op == "relu":
            found[node.name] = values[node.name]
        elif node.op == "lif":
            theta = per_channel(params[node.inputs[2]], len(node.type.shape))
            found[node.name] = values[node.name].sum(0) * theta
    return found


def layer_errors(graph: Graph, teacher: Graph, x: Samples, device: str = "cpu") -> dict[str, float]:
    """||a - a_teacher|| / ||a_teacher|| by layer, for the layers that the teacher has by the same name and shape.

    Where the teacher's layer is dead (norm 0), ||a||. Neurons in units of their weight steps are left out.
    """
    name, device = next(iter(graph.inputs)), first(device)
    batch = {name: to_tensor(x[:LAYER_SAMPLES], device)}
    with torch.inference_mode(), exact():
        ours = activations(graph, batch, tensors(graph, device))
        theirs = activations(teacher, batch, tensors(teacher, device))
    found = {}
    for layer, value in ours.items():
        if graph[layer].op == "lif" and in_weight_steps(graph, graph[layer]):
            continue
        if layer in theirs and theirs[layer].shape == value.shape:
            found[layer] = float((value - theirs[layer]).norm()) / (float(theirs[layer].norm()) or 1.0)
    return found

"""A machine with several devices that compute on the CPU: what a network on several of them does, on one that has none.

`with Machine() as machine:` there are the devices `meta:0`, `meta:1`. A tensor on one of them is a CPU tensor with a
label, which torch takes for its device. Every operation, those of autograd too, is computed on the CPU, and refused
where its operands lie on different devices, as a GPU would refuse it (a number of the CPU may go anywhere). What moves
from device to device is recorded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from snnc.sim import placement

DEVICES = "meta:0,meta:1"
COPIES = (torch.ops.aten._to_copy, torch.ops.aten.to)


class There(torch.Tensor):
    """A CPU tensor, `inner`, that says that it is elsewhere."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: str) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=torch.device(device),
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, [])


def computed(func: Any, args: Any, kwargs: dict[str, Any], moves: list[tuple[str, str, int]]) -> Any:
    """An operation, on the one device of its operands; `moves` is told what goes from one to another."""
    operands = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    found = {str(value.device) for value in operands if value.ndim or isinstance(value, There)}
    asked = {str(value) for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.device)}
    if asked and func.overloadpacket in COPIES:
        moves.extend((str(operands[0].device), device, operands[0].numel()) for device in asked)
    if func.overloadpacket is torch.ops.aten.copy_:
        moves.append((str(operands[1].device), str(operands[0].device), operands[1].numel()))
        found = {str(operands[0].device)}
    found = asked or found
    if len(found) > 1:
        raise RuntimeError(f"{func} has operands on {', '.join(sorted(found))}")
    place = next(iter(found), "cpu")
    known = {id(value.inner): value for value in operands if isinstance(value, There) and str(value.device) == place}

    def labelled(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or place == "cpu":
            return value
        return known[id(value)] if id(value) in known else There(value, place)

    def inner(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value.inner if isinstance(value, There) else value

    return tree_map(labelled, func(*tree_map(inner, args), **tree_map(inner, kwargs)))


class Machine(TorchDispatchMode):
    """The machine; `moves`: from, to, and how many elements, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[tuple[str, str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, self.moves)

    def __enter__(self) -> Machine:
        self._before = placement.existing, torch.inference_mode
        torch.inference_mode = torch.no_grad  # tensors made by inference mode cannot be told apart from torch's own
        placement.existing = lambda: ("cpu", *DEVICES.split(","))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        placement.existing, torch.inference_mode = self._before

"""Windows that slide over images: strides, dilations, pads in all their forms; 1-D images as 2-D ones of height 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from snnc.errors import ModelError
from snnc.importer.call import Call, Value
from snnc.ir import Attr, Shape


@dataclass(frozen=True)
class Image:
    """A value as [C,H,W].

    Attributes:
        value: the image; of 1-D ones [C,1,L].
        spatial: the sizes that the model sees: [L] or [H,W].
    """

    call: Call
    value: Value
    spatial: Shape

    def restored(self, made: Value) -> Value:
        """What a window made of the image, in the shape that the model expects."""
        shape = made.shape[:1] + made.shape[-len(self.spatial) :]
        return self.call.reshaped(made, shape if self.call.batched else (1, *shape))


def image(call: Call, index: int = 0) -> Image:
    """The input at `index` as an image.

    Raises:
        ModelError: it is no 1-D or 2-D image.
    """
    x = call.value(index)
    shape = x.shape
    if not call.batched:
        if len(shape) < 3 or shape[0] != 1:
            message = f"{call.op} of {list(shape)} read without a batch: only one sample can stand in front"
            raise ModelError(message, code="unsupported-form")
        shape = shape[1:]
    if len(shape) not in (2, 3):
        message = f"{call.op} over {len(shape) - 1}-D images; 1-D and 2-D are supported"
        raise ModelError(message, code="unsupported-form")
    flat = shape if len(shape) == 3 else (shape[0], 1, shape[1])
    return Image(call, call.reshaped(x, flat), shape[1:])


@dataclass(frozen=True)
class Window:
    """A window over two axes; those of 1-D images have a first axis of no extent."""

    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    dims: int

    @classmethod
    def of(cls, call: Call, sizes: Shape, kernel: Shape) -> Window:
        """The window of a Conv or pool over `sizes`."""
        strides, dilations, pads = spans(call, sizes, kernel)
        return cls._over_two(strides, dilations, pads)

    @classmethod
    def transposed(cls, call: Call, sizes: Shape, kernel: Shape) -> Window:
        """Of the conv that stands for a ConvTranspose; its strides are the zeros to put between elements, plus one."""
        return cls._over_two(*transposed_spans(call, sizes, kernel))

    @classmethod
    def _over_two(cls, strides: Shape, dilations: Shape, pads: Shape) -> Window:
        dims = len(strides)
        if dims == 1:
            return cls((1, strides[0]), (1, dilations[0]), (0, pads[0], 0, pads[1]), 1)
        return cls((strides[0], strides[1]), (dilations[0], dilations[1]), (pads[0], pads[1], pads[2], pads[3]), 2)

    def flat(self, sizes: Shape) -> tuple[int, int]:
        """Sizes along the window's two axes."""
        return (1, sizes[0]) if self.dims == 1 else (sizes[0], sizes[1])

    def attrs(self) -> dict[str, Attr]:
        """As attributes of the graph's ops."""
        return {"strides": self.strides, "pads": self.pads, "dilations": self.dilations}


def spans(call: Call, sizes: Shape, kernel: Shape) -> tuple[Shape, Shape, Shape]:
    """Strides, dilations and explicit pads (all begins, then all ends) of a window over any number of axes."""
    dims = len(sizes)
    strides, dilations = _per_axis(call, "strides", dims), _per_axis(call, "dilations", dims)
    if len(kernel) != dims or min(kernel, default=1) < 1:
        raise ModelError(f"{call.op} with kernel {list(kernel)} over {dims}-D images", code="shape")
    if tuple(call.ints("kernel_shape", kernel)) != tuple(kernel):
        message = f"{call.op} declares a kernel {list(call.ints('kernel_shape'))}, its weight has {list(kernel)}"
        raise ModelError(message, code="shape")
    auto = call.attrs.get("auto_pad", "NOTSET") or "NOTSET"
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [_same_total(sizes[i], kernel[i], strides[i], dilations[i]) for i in range(dims)]
        return strides, dilations, _halved(totals, upper=auto == "SAME_UPPER")
    if auto not in ("NOTSET", "VALID"):
        raise ModelError(f"{call.op} with auto_pad={auto}", code="unsupported-form")
    pads = call.ints("pads", (0,) * 2 * dims) if auto == "NOTSET" else (0,) * 2 * dims
    if len(pads) != 2 * dims or min(pads) < 0:
        raise ModelError(f"{call.op} with pads {list(pads)}", code="shape")
    return strides, dilations, pads


def transposed_spans(call: Call, sizes: Shape, kernel: Shape) -> tuple[Shape, Shape, Shape]:
    """Strides and dilations of a ConvTranspose, and the pads of the conv that stands for it, which may be negative."""
    dims = len(sizes)
    strides, dilations = _per_axis(call, "strides", dims), _per_axis(call, "dilations", dims)
    extra = call.ints("output_padding", (0,) * dims)
    auto = call.attrs.get("auto_pad", "NOTSET")
    out = call.shape[-dims:]
    if len(kernel) != dims or len(extra) != dims or min(extra) < 0:
        raise ModelError(f"{call.op} with kernel {list(kernel)}, output_padding {list(extra)}", code="shape")
    full = [strides[i] * (sizes[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(dims)]
    if "output_shape" in call.attrs or auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max(full[i] - out[i], 0) for i in range(dims)]
        extra = tuple(extra[i] + max(out[i] - full[i], 0) for i in range(dims))
        pads = _halved(totals, upper=auto == "SAME_UPPER")
    else:
        pads = (0,) * 2 * dims if auto == "VALID" else call.ints("pads", (0,) * 2 * dims)
    if len(pads) != 2 * dims or min(pads) < 0:
        raise ModelError(f"{call.op} with pads {list(pads)}", code="shape")
    reach = [dilations[i] * (kernel[i] - 1) for i in range(dims)]
    before = [reach[i] - pads[i] for i in range(dims)]
    after = [reach[i] - pads[i + dims] + extra[i] for i in range(dims)]
    return strides, dilations, (*before, *after)


def _halved(totals: Sequence[int], upper: bool) -> Shape:
    """Pads of both sides from their sums; the odd one is at the end if `upper`."""
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*small, *large) if upper else (*large, *small)


def _per_axis(call: Call, name: str, dims: int) -> Shape:
    found = call.ints(name, (1,) * dims)
    if len(found) != dims or min(found, default=1) < 1:
        raise ModelError(f"{call.op} with {name} {list(found)} over {dims}-D images", code="shape")
    return found


def _same_total(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Padding, both sides together, that makes ceil(size / stride) windows."""
    return max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)


def overhang(
    sizes: Sequence[int], out: Sequence[int], kernel: Shape, strides: Shape, dilations: Shape, pads: Shape
) -> Shape:
    """How far the last windows reach beyond the padded image (ceil_mode), per axis."""
    dims = len(out)
    return tuple(
        max((out[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - sizes[i] - pads[i] - pads[i + dims], 0)
        for i in range(dims)
    )

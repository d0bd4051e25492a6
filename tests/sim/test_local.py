"""Windows of images and layers with weights of their own at every position, held to plain loops and to autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from snnc.ir import Node
from snnc.sim.local import add_products, local, unfold

SIZE = (4, 6, 7)
"""Of the image."""
FORMS = {
    "plain": {"pads": (0, 0, 0, 0), "strides": (1, 1), "dilations": (1, 1), "group": 1},
    "padded": {"pads": (1, 1, 1, 1), "strides": (2, 1), "dilations": (1, 1), "group": 2},
    "one-sided": {"pads": (2, 0, 1, 3), "strides": (2, 2), "dilations": (1, 2), "group": 1},
    "depthwise": {"pads": (1, 1, 1, 1), "strides": (1, 1), "dilations": (2, 1), "group": 4},
}
OUT, KERNEL = 8, (3, 2)


def node(form: str) -> Node:
    return Node("conv", "local", ("x", "conv.weight"), FORMS[form])


def windows(form: str, x: Tensor) -> Tensor:
    """[N, C, P, kh * kw], each read by itself from an image with its pads."""
    attrs = FORMS[form]
    (top, left, bottom, right), (down, across), (far, wide) = attrs["pads"], attrs["strides"], attrs["dilations"]
    image = F.pad(x, (left, right, top, bottom))
    high = (image.shape[2] - far * (KERNEL[0] - 1) - 1) // down + 1
    long = (image.shape[3] - wide * (KERNEL[1] - 1) - 1) // across + 1
    taps = [(i, j) for i in range(KERNEL[0]) for j in range(KERNEL[1])]
    places = [(r * down, c * across) for r in range(high) for c in range(long)]
    rows = [torch.stack([image[:, :, r + i * far, c + j * wide] for i, j in taps], dim=-1) for r, c in places]
    return torch.stack(rows, dim=2)


def layer(form: str, n: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """An image and weights, both integers, and the size of what they make."""
    chance = torch.Generator().manual_seed(1)
    x = torch.randint(-3, 4, (n, *SIZE), generator=chance).float()
    shared = torch.zeros(OUT, SIZE[0] // FORMS[form]["group"], *KERNEL)
    pads, strides, dilations = (FORMS[form][name] for name in ("pads", "strides", "dilations"))
    image = F.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    high, wide = F.conv2d(image, shared, None, strides, 0, dilations, FORMS[form]["group"]).shape[2:]
    weight = torch.randint(-3, 4, (OUT, high, wide, *shared.shape[1:]), generator=chance).float()
    return x, weight, (high, wide)


@pytest.mark.parametrize("form", FORMS)
def test_windows_are_in_the_order_of_the_groups(form: str) -> None:
    x, _, _ = layer(form, 3)
    made, group = unfold(node(form), x, KERNEL), FORMS[form]["group"]
    seen = windows(form, x)
    wanted = seen.reshape(3, group, -1, *seen.shape[2:]).permute(1, 3, 0, 2, 4).flatten(3)
    assert torch.equal(made, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_every_position_has_weights_of_its_own(form: str) -> None:
    x, weight, (high, wide) = layer(form, 3)
    inner, rows = weight.shape[3], OUT // FORMS[form]["group"]
    seen, made = windows(form, x), torch.zeros(3, OUT, high * wide)
    flat = weight.reshape(OUT, high * wide, inner, -1)
    for o in range(OUT):
        first = o // rows * inner
        made[:, o] = torch.einsum("ncpk,pck->np", seen[:, first : first + inner], flat[o])
    assert torch.equal(local(node(form), x, weight), made.reshape(3, OUT, high, wide))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_made_lies_in_memory_in_the_usual_order(form: str) -> None:
    """Neurons compute from it beside what does."""
    x, weight, _ = layer(form, 5)
    assert local(node(form), x, weight).is_contiguous()
    assert torch.equal(local(node(form), x, weight), local(node(form), x, weight.requires_grad_()))


@pytest.mark.parametrize("form", FORMS)
def test_equal_weights_are_a_convolution(form: str) -> None:
    x, weight, (high, wide) = layer(form, 5)
    kernel = weight[:, 0, 0]
    pads, strides, dilations = (FORMS[form][name] for name in ("pads", "strides", "dilations"))
    image = F.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    wanted = F.conv2d(image, kernel, None, strides, 0, dilations, FORMS[form]["group"])
    same = kernel[:, None, None].expand(-1, high, wide, -1, -1, -1)
    assert torch.equal(local(node(form), x, same), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_products_are_the_gradient_and_add_up(form: str) -> None:
    x, weight, _ = layer(form, 4)
    weight, total = weight.requires_grad_(), torch.ones_like(weight)
    with torch.inference_mode():
        unfold(node(form), x, KERNEL)  # what is kept of this is no hindrance on the way back
    error = torch.arange(4.0).reshape(4, 1, 1, 1) - 1 + torch.zeros_like(local(node(form), x, weight)).detach()
    x.requires_grad_()
    (local(node(form), x, weight) * error).sum().backward()
    anew = torch.full_like(weight, torch.nan)
    with torch.no_grad():
        add_products(node(form), x, error, total)
        add_products(node(form), x, error, anew, anew=True)
    assert weight.grad is not None
    assert torch.equal(anew, weight.grad)
    assert x.grad is not None
    assert torch.equal(total - 1, weight.grad)
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_window_as_large_as_the_image_is_a_dense_layer_of_each_group(group: int) -> None:
    chance = torch.Generator().manual_seed(2)
    whole = Node("fc", "local", ("x", "w"), {"pads": (0,) * 4, "strides": (1, 1), "dilations": (1, 1), "group": group})
    x = torch.randint(-3, 4, (5, *SIZE), generator=chance).float()
    weight = torch.randint(-3, 4, (OUT, 1, 1, SIZE[0] // group, *SIZE[1:]), generator=chance).float()
    rows = weight.reshape(group, OUT // group, -1)
    wanted = torch.einsum("ngi,goi->ngo", x.reshape(5, group, -1), rows).reshape(5, OUT, 1, 1)
    assert torch.equal(local(whole, x, weight), wanted)
    assert torch.equal(local(whole, x[:1], weight), wanted[:1])
    error, total = torch.randint(-3, 4, wanted.shape, generator=chance).float(), torch.ones_like(weight)
    products = torch.einsum("ngo,ngi->goi", error.reshape(5, group, -1), x.reshape(5, group, -1))
    add_products(whole, x, error, total)
    assert torch.equal(total - 1, products.reshape(weight.shape))
    add_products(whole, x, error, total, anew=True)
    assert torch.equal(total, products.reshape(weight.shape))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("form", [*FORMS, "whole"])
def test_a_group_is_to_the_bit_what_it_is_alone(form: str, count: int) -> None:
    """Of real numbers too, and of a single image."""
    chance = torch.Generator().manual_seed(3)
    attrs = {**FORMS["plain" if form == "whole" else form]}
    x, weight, _ = layer("plain" if form == "whole" else form, count)
    if form == "whole":
        weight = torch.zeros(OUT, 1, 1, *SIZE)
    images = [torch.rand(x.shape, generator=chance) for _ in range(3)]
    weights = [torch.randn(weight.shape, generator=chance) for _ in range(3)]
    alone = [local(Node("conv", "local", ("x", "w"), attrs), *each) for each in zip(images, weights, strict=True)]
    three = Node("conv", "local", ("x", "w"), {**attrs, "group": 3 * attrs["group"]})
    among = local(three, torch.cat(images, 1), torch.cat(weights))
    assert torch.equal(among, torch.cat(alone, 1))
    totals = [torch.ones_like(weight) for _ in range(3)]
    for image, made, total in zip(images, alone, totals, strict=True):
        add_products(Node("conv", "local", ("x", "w"), attrs), image, made, total)
    total = torch.ones_like(torch.cat(weights))
    add_products(three, torch.cat(images, 1), among, total)
    assert torch.equal(total, torch.cat(totals))


def test_channels_that_each_read_their_own() -> None:
    """Groups of one output are one list of products."""
    chance = torch.Generator().manual_seed(4)
    attrs = {"pads": (1, 1, 1, 1), "strides": (1, 1), "dilations": (1, 1), "group": 4}
    lone = Node("conv", "local", ("x", "w"), attrs)
    x, kernel = (torch.randint(-3, 4, shape, generator=chance).float() for shape in ((3, 4, 5, 5), (4, 1, 3, 3)))
    weight = kernel[:, None, None].expand(-1, 5, 5, -1, -1, -1).clone().requires_grad_()
    wanted = F.conv2d(x, kernel, padding=1, groups=4)
    assert torch.equal(local(lone, x, weight.detach()), wanted)
    local(lone, x, weight).backward(wanted)
    total = torch.full_like(weight, torch.nan).detach()
    add_products(lone, x, wanted, total, anew=True)
    assert torch.equal(total, weight.grad)


@pytest.mark.parametrize("form", [*FORMS, "whole"])
@pytest.mark.parametrize("grad", [False, True])
def test_a_sample_does_not_depend_on_how_many_others_there_are(form: str, grad: bool) -> None:
    """Of real numbers, whose sums depend on their order."""
    chance = torch.Generator().manual_seed(3)
    x, kernel = torch.rand(40, *SIZE, generator=chance), SIZE[1:] if form == "whole" else KERNEL
    at = Node("conv", "local", ("x", "conv.weight"), FORMS["plain" if form == "whole" else form])
    group = int(at.attrs["group"])
    shape = (1, 1) if form == "whole" else layer(form, 1)[2]
    weight = torch.randn(OUT, *shape, SIZE[0] // group, *kernel, generator=chance).requires_grad_(grad)
    whole = local(at, x, weight)
    for count in (1, 2, 5, 11, 12, 15, 16, 17, 33):
        assert torch.equal(local(at, x[:count], weight), whole[:count]), count

"""Options that several commands share, and the kinds of their values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import click

from snnc.importer import Limits, Options
from snnc.train.checkpoint import EVERY

F = TypeVar("F", bound=Callable[..., Any])
READABLE = click.Path(path_type=Path)


class Number(click.ParamType[float]):
    """A number, or a fraction such as 1/255."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`value` as float."""
        try:
            return float(value) if isinstance(value, float | int) else float(Fraction(value.strip()))
        except (ValueError, ZeroDivisionError, OverflowError):
            self.fail(f"'{value}' is no number", param, ctx)


class Numbers(click.ParamType[tuple[float, ...]]):
    """One number, or one per channel: 0.49,0.48,0.45."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """`value` as a tuple."""
        if isinstance(value, tuple):
            return value
        return tuple(Number().convert(part, param, ctx) for part in value.split(","))


class Steps(click.ParamType[range]):
    """Numbers of time steps: 16, or 4..32, both ends included."""

    name = "a..b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """`value` as a range."""
        if isinstance(value, range):
            return value
        first, dots, last = str(value).partition("..")
        last = last if dots else first
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            self.fail(f"'{value}' is no number of time steps, such as 16 or 4..32", param, ctx)
        return range(int(first), int(last) + 1)


def output_options(command: F) -> F:
    """--json and --quiet."""
    command = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")(command)
    return click.option("--quiet", is_flag=True, help="No progress.")(command)


def device_option(command: F) -> F:
    """--device."""
    text = "Where torch computes: cpu, cuda, or the devices that a large network is trained on in parts: cuda:0,cuda:1."
    return click.option("--device", default="cpu", show_default=True, help=text)(command)


def sample_options(command: F) -> F:
    """--data of all parts, --train-samples and --test-samples."""
    for name in ("--test-samples", "--train-samples"):
        command = click.option(name, type=click.IntRange(1), help="Use only the first so many.")(command)
    text = "npz, or folder of npy: x_train, y_train, x_test, y_test or x, y."
    return click.option("--data", "data_path", type=READABLE, required=True, help=text)(command)


def resume_options(command: F) -> F:
    """--resume, --restart and --save-every."""
    text = "Go on with a training that was interrupted (or begin, if there is none); or forget it and begin again."
    command = click.option("--resume/--restart", default=None, help=text)(command)
    text = "Seconds between two checkpoints within an epoch; they lie beside the artifact, in OUT.checkpoints."
    return click.option("--save-every", type=click.FloatRange(0), default=EVERY, show_default=True, help=text)(command)


def scaling_options(command: F) -> F:
    """--scale, --mean and --std."""
    for name, default, text in (
        ("--std", (1.0,), "and divide by this (one number, or one per channel)"),
        ("--mean", (0.0,), "then subtract this (one number, or one per channel)"),
    ):
        command = click.option(name, type=Numbers(), default=default, help=text)(command)
    return click.option("--scale", type=Number(), default=1.0, help="Multiply raw inputs by this, e.g. 1/255,")(command)


class Sizes(click.ParamType[tuple[str, tuple[int, ...]]]):
    """An input and its sizes: image=3,32,32."""

    name = "name=sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`value` as (name, sizes)."""
        name, _, sizes = str(value).rpartition("=")
        try:
            return name, tuple(int(size) for size in sizes.split(","))
        except ValueError:
            self.fail(f"'{value}' is no name=sizes, such as image=3,32,32", param, ctx)


class Limit(click.ParamType[tuple[str, int]]):
    """A limit of the import and its value: nodes=200000."""

    name = "name=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`value` as (name, number)."""
        name, _, number = str(value).partition("=")
        known = [field.name for field in fields(Limits)]
        if name not in known or not number.isdecimal():
            self.fail(f"'{value}' is no limit: one of {', '.join(known)}, = and a number", param, ctx)
        return name, int(number)


def reading_options(command: F) -> F:
    """--unbatched, --shape, --output and --limit, which the command gets as one `reading`."""

    @functools.wraps(command)
    def wrapped(*args: Any, unbatched: bool, shapes: Any, outputs: Any, limits: Any, **kwargs: Any) -> Any:
        reading = Options(not unbatched, dict(shapes), tuple(outputs), Limits(**dict(limits)))
        return command(*args, reading=reading, **kwargs)

    made: Any = wrapped
    for name, key, kind, text in (
        ("--limit", "limits", Limit(), "What reading the model may take, e.g. nodes=200000."),
        ("--output", "outputs", str, "The output to keep, where the model has several."),
        ("--shape", "shapes", Sizes(), "Sizes that the model leaves open, without the batch, e.g. image=3,32,32."),
    ):
        made = click.option(name, key, type=kind, multiple=True, help=text)(made)
    text = "The first axis is not the batch: the whole tensor is one sample."
    decorated: F = click.option("--unbatched", is_flag=True, help=text)(made)
    return decorated

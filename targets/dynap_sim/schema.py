"""Tables of plain data (TOML, JSON) <-> frozen dataclasses, strictly: every mistake of a table at once.

The fields are the schema: a name is known or it is a mistake, a type hint says what a value must be, and `ranged`
how large. A field that is a dataclass itself is a table within the table.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from snnc.errors import PipelineError, SnncError

T = TypeVar("T")
LONGEST_TEXT = 400
"""Characters of one text."""
LONGEST_LIST = 64


def ranged(low: float, high: float, unit: str = "") -> Any:
    """A field whose number, or whose every number, lies from `low` to `high`, in `unit`."""
    return dataclasses.field(metadata={"low": low, "high": high, "unit": unit})


def read_table(cls: type[T], table: Mapping[str, Any], base: T | None = None) -> T:
    """An instance of the dataclass `cls` from a table; what the table leaves out is as in `base`.

    Raises:
        PipelineError: lists every unknown, missing or wrong key.
    """
    problems: list[SnncError] = []
    made = _read_fields(cls, table, base, "", problems)
    if problems:
        raise PipelineError.gather("the table is wrong", problems)
    return cls(**made)


def to_table(made: Any) -> dict[str, Any]:
    """The plain data that `read_table` reads."""
    table = {}
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if dataclasses.is_dataclass(value):
            value = to_table(value)
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, Mapping):
            value = dict(sorted(value.items()))
        table[field.name] = value
    return table


def names(cls: type[Any], prefix: str = "") -> list[str]:
    """The dotted names of all values of a dataclass, those of tables within it included."""
    found = []
    for name, hint in typing.get_type_hints(cls).items():
        inner = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        found += names(hint, f"{prefix}{name}.") if inner else [prefix + name]
    return found


def unit_of(cls: type[Any], name: str) -> str:
    """The unit of the value with that dotted name."""
    first, _, rest = name.partition(".")
    if rest:
        return unit_of(typing.get_type_hints(cls)[first], rest)
    field = next(f for f in dataclasses.fields(cls) if f.name == first)
    return str(field.metadata.get("unit", ""))


def _read_fields(
    cls: type[Any], table: Mapping[str, Any], base: Any, prefix: str, problems: list[SnncError]
) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    problems += [
        PipelineError(f"'{prefix}{key}' is no known key", hint=f"one of {', '.join(known)}")
        for key in table
        if key not in known
    ]
    made = {}
    for key, field in known.items():
        hint, before = hints[key], None if base is None else getattr(base, key)
        if dataclasses.is_dataclass(hint):
            made[key] = _read_inner(typing.cast(type[Any], hint), table.get(key, {}), before, prefix + key, problems)
        elif key not in table:
            made[key] = before
            if base is None:
                problems.append(PipelineError(f"'{prefix}{key}' is missing", hint=f"{key} = {_word(hint)}"))
        else:
            made[key] = _value(table[key], hint, before, field.metadata, prefix + key, problems)
    return made


def _read_inner(cls: type[Any], table: Any, base: Any, key: str, problems: list[SnncError]) -> Any:
    """A table within the table; None if it is wrong."""
    if not isinstance(table, dict):
        problems.append(PipelineError(f"'{key}' is not a table", hint=f"[{key}]"))
        return None
    before = len(problems)
    made = _read_fields(cls, table, base, f"{key}.", problems)
    return cls(**made) if len(problems) == before else None


def _value(value: Any, hint: Any, base: Any, limits: Mapping[str, Any], key: str, problems: list[SnncError]) -> Any:
    """One value in the type of its field; what is wrong with it goes to `problems`."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list) or len(value) > LONGEST_LIST:
            problems.append(PipelineError(f"'{key}' is not a list of at most {LONGEST_LIST}"))
            return ()
        inner = typing.get_args(hint)[0]
        return tuple(_value(v, inner, None, limits, f"{key}[{i}]", problems) for i, v in enumerate(value))
    if _is_mapping(hint):
        return _texts(value, base, key, problems)
    made = float(value) if hint is float and type(value) is int else value
    if not _fits(made, hint):
        problems.append(PipelineError(f"'{key}' is {_show(value)}, not {_word(hint)}"))
    elif limits and type(made) in (int, float) and not limits["low"] <= made <= limits["high"]:
        allowed = f"{limits['low']} to {limits['high']} {limits['unit']}".rstrip()
        problems.append(PipelineError(f"'{key}' is {_show(value)}, allowed are {allowed}"))
    return made


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _texts(value: Any, base: Any, key: str, problems: list[SnncError]) -> dict[str, str]:
    """A table of texts, on top of those of the base."""
    if not isinstance(value, dict):
        problems.append(PipelineError(f"'{key}' is not a table", hint=f"[{key}]"))
        return {}
    for name, text in value.items():
        if not _fits(text, str):
            problems.append(PipelineError(f"'{key}.{name}' is {_show(text)}, not {_word(str)}"))
    return {**(base or {}), **value}


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if hint is float:
        return type(value) is float and math.isfinite(value)
    if hint is str:
        return isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT and value.isprintable()
    return type(value) is hint


def _word(hint: Any) -> str:
    """What a field takes, for messages."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " | ".join(f'"{arg}"' for arg in typing.get_args(hint))
    if origin is tuple:
        return f"a list of: {_word(typing.get_args(hint)[0])}"
    if _is_mapping(hint):
        return "a table of texts"
    words = {int: "a whole number", float: "a number", bool: "true | false"}
    return words.get(hint, f"a text of 1 to {LONGEST_TEXT} printable characters")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."

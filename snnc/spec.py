"""`name{key=value key=value}` <-> a frozen dataclass: passes, trainers and targets in script and shell alike."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar

from .errors import PipelineError

T = TypeVar("T")
UNIONS = (types.UnionType, typing.Union)
"""`int | None` and `Optional[int]`"""
_SPEC = re.compile(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")


class Registry(Mapping[str, type[T]], Generic[T]):
    """The classes of one kind by their command-line names: our own table, then the plug-ins of other packages."""

    def __init__(self, group: str, kind: str, table: Mapping[str, type[T]]) -> None:
        """`group` is the entry-point group that plug-ins register under; `kind` is the word for one entry."""
        self.group, self.kind, self.table = group, kind, dict(table)

    def __getitem__(self, name: str) -> type[T]:
        if name in self.table:
            return self.table[name]
        found = {point.value: point for point in metadata.entry_points(group=self.group) if point.name == name}
        if not found:
            raise PipelineError(f"no {self.kind} is named '{name}'", hint=f"one of {', '.join(self)}")
        if len(found) > 1:
            raise PipelineError(f"{len(found)} plug-ins name a {self.kind} '{name}': {', '.join(sorted(found))}")
        [(value, point)] = found.items()
        try:
            made: type[T] = point.load()
        except Exception as error:
            raise PipelineError(f"the plug-in {self.kind} '{name}' ({value}) is broken: {error}") from error
        if not (isinstance(made, type) and dataclasses.is_dataclass(made) and getattr(made, "name", None) == name):
            raise PipelineError(
                f"the plug-in {self.kind} '{name}' ({value}) is broken: it is no dataclass with name = '{name}'"
            )
        return made

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.table, *(p.name for p in metadata.entry_points(group=self.group))}))

    def __len__(self) -> int:
        return len(list(iter(self)))


def to_spec(obj: Any) -> str:
    """`name{...}` with the options that are not at their defaults, in the order of the fields."""
    hints = typing.get_type_hints(type(obj))
    fields = [f for f in dataclasses.fields(obj) if _changed(obj, f)]
    changed = [f"{f.name}={_show(getattr(obj, f.name), hints[f.name])}" for f in fields]
    return f"{obj.name}{{{' '.join(changed)}}}" if changed else str(obj.name)


def from_spec(text: str, table: Mapping[str, type[T]]) -> T:
    """The one object that `text` names.

    Raises:
        PipelineError: unknown name or option, a value of the wrong type, or malformed text.
    """
    made = split_specs(text)
    if len(made) != 1:
        raise PipelineError(f"'{text}' should be one name, with its options in braces")
    return build(table[made[0][0]], made[0][1])


def split_specs(text: str) -> list[tuple[str, dict[str, str]]]:
    """`a{x=1},b` -> names and raw options."""
    found, at = [], 0
    while at < len(text):
        match = _SPEC.match(text, at)
        if match is None:
            raise PipelineError(
                f"cannot read '{text[at:]}'",
                at=f"character {at + 1} of '{text}'",
                hint="name{key=value key=value},name",
            )
        name, options, comma = match.groups()
        found.append((name, _options(name, options or "")))
        at = match.end()
        if comma and at == len(text):
            raise PipelineError(f"'{text}' ends with a comma")
    return found


def _options(name: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split():
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise PipelineError(f"option '{part}' of '{name}' is not key=value")
        if key in found:
            raise PipelineError(f"option '{key}' of '{name}' is given twice")
        found[key] = value
    return found


def build(cls: type[T], options: Mapping[str, str]) -> T:
    """An instance of a dataclass from the texts of its options; all mistakes at once."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    name = getattr(cls, "name", cls.__name__)
    problems: list[PipelineError] = []
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            has = f"one of {', '.join(known)}" if known else f"'{name}' has no options"
            problems.append(PipelineError(f"'{name}' has no option '{key}'", hint=has))
            continue
        try:
            values[key] = _read(text, hints[key])
        except ValueError:
            problems.append(PipelineError(f"option {key}={text} of '{name}' is not {_word(hints[key])}"))
    for key, f in known.items():
        if key not in options and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            problems.append(PipelineError(f"'{name}' needs the option '{key}'", hint=f"{name}{{{key}=...}}"))
    if problems:
        raise PipelineError.gather(f"the options of '{name}' are wrong", problems)
    return cls(**values)


def describe(cls: type[Any]) -> list[tuple[str, str, str]]:
    """The options of a dataclass: name, type, default."""
    hints = typing.get_type_hints(cls)
    return [
        (f.name, _word(hints[f.name]), "required" if f.default is dataclasses.MISSING else _show(f.default))
        for f in dataclasses.fields(cls)
        if f.init
    ]


def _changed(obj: Any, f: dataclasses.Field[Any]) -> bool:
    return bool(f.init and getattr(obj, f.name) != f.default)


def _show(value: Any, hint: Any = None) -> str:
    """`value` as `_read` takes it; a whole number in a float's place is a float, numpy's numbers are plain ones."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return repr(float(value)) if isinstance(value, float) or hint is float else str(value)


def _word(hint: Any) -> str:
    if typing.get_origin(hint) in UNIONS:
        return " or ".join(_word(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(map(str, typing.get_args(hint)))
    return "none" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _read(text: str, hint: Any) -> Any:
    if typing.get_origin(hint) in UNIONS:
        parts = typing.get_args(hint)
        if type(None) in parts and text == "none" and not any("none" in typing.get_args(part) for part in parts):
            return None
        for part in parts:
            if part is not type(None):
                return _read(text, part)
    if typing.get_origin(hint) is typing.Literal:
        if text not in typing.get_args(hint):
            raise ValueError(text)
        return text
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    return hint(text)

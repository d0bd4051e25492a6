"""The table of passes against its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from snnc import passes
from snnc.passes import PASSES
from snnc.pipeline import Pass

FOLDER = Path(passes.__file__).parent


def test_every_file_has_its_row_and_every_row_its_file() -> None:
    files = {path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    assert files == set(PASSES.table)


@pytest.mark.parametrize("name", list(PASSES.table))
def test_a_pass_is_called_what_its_row_and_file_are_called(name: str) -> None:
    cls = PASSES[name]
    assert cls.name == name
    assert cls.__module__ == f"snnc.passes.{name.replace('-', '_')}"
    assert cls.__name__ in passes.__all__
    assert issubclass(cls, Pass)


@pytest.mark.parametrize("name", list(PASSES.table))
def test_options_are_frozen_fields_with_defaults(name: str) -> None:
    made = PASSES[name]()
    assert str(made) == name
    for option in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, option.name, 1)

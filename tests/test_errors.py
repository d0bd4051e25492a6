"""The text of every error class: what is wrong, at which node, what to try; and nothing raw for a terminal."""

from __future__ import annotations

import pytest

from snnc import errors
from snnc.errors import (
    ArtifactError,
    CheckpointError,
    DataError,
    GraphError,
    ModelError,
    PipelineError,
    SnncError,
    TargetError,
    printable,
)

CLASSES = (GraphError, ModelError, DataError, PipelineError, TargetError, CheckpointError, ArtifactError)


def test_no_class_is_missing_here() -> None:
    found = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, SnncError)}
    assert found == {SnncError, *CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
def test_the_three_parts(cls: type[SnncError]) -> None:
    error = cls("weights are 9 bits", at="conv1 (conv), from /conv1/Conv", hint="quantize-weights{bits=4}")
    assert isinstance(error, SnncError)
    assert str(error) == ("weights are 9 bits\n  at: conv1 (conv), from /conv1/Conv\n  try: quantize-weights{bits=4}")
    assert str(cls("only this")) == "only this"


@pytest.mark.parametrize("cls", CLASSES)
def test_all_problems_are_listed_and_indented(cls: type[SnncError]) -> None:
    problems = [cls("one", at="a"), cls("two", hint="b")]
    assert str(cls.gather("both are wrong", problems, hint="neither")) == (
        "both are wrong\n  - one\n      at: a\n  - two\n      try: b\n  try: neither"
    )


def test_a_single_problem_is_given_back_as_it_is() -> None:
    one = DataError("one", at="a")
    assert DataError.gather("many", [one]) is one
    assert DataError.gather("many", [one], hint="h").problems == (one,), "a hint must not get lost"
    other = PipelineError("one")
    assert type(DataError.gather("many", [other])) is DataError, "the class asked for stays the class raised"


def test_control_characters_never_reach_the_terminal() -> None:
    evil = "\x1b[2Jname\r\x07\x9b31m\u202e"
    for text in (str(GraphError(evil)), str(GraphError("x", at=evil)), str(GraphError("x", hint=evil))):
        assert "\x1b" not in text
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "\\x1b[2Jname\\r\\x07\\x9b31m\\u202e" in text
    inner = str(GraphError.gather("x", [GraphError(evil), GraphError("y")]))
    assert "\\x1b[2J" in inner
    assert "\x1b" not in inner


def test_lone_surrogates_print() -> None:
    assert str(ArtifactError("a\udc80b is missing")).encode() == b"a\\udc80b is missing"


def test_long_text_is_cut_and_says_so() -> None:
    assert printable("x" * 1024) == "x" * 1024
    assert printable("x" * 1030) == "x" * 1024 + "... (6 more characters)"
    assert len(str(GraphError("m" * 10**6, at="n" * 10**6, hint="h" * 10**6))) < 10_000


def test_ordinary_text_stays_as_it_is() -> None:
    assert printable("größe é ≥ 1\nnext") == "größe é ≥ 1\nnext"

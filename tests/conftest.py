"""Shared fixtures: golden files, and one profile for all property tests (the same examples every time)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from snnc.cli import main

Golden = Callable[[str], None]


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]

settings.register_profile("snnc", derandomize=True, deadline=None, max_examples=30, database=None)
settings.load_profile("snnc")


def pytest_configure(config: pytest.Config) -> None:
    """Worker processes of `-n`, and what they start, compute on one thread each: they share the cores already."""
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files; read the diff afterwards")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares a text with `tests/golden/TEST_NAME.txt`."""
    path = Path(__file__).parent / "golden" / f"{request.node.name}.txt"

    def check(text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        assert path.exists(), f"no golden file {path.name}: run pytest --update-golden and read the diff"
        assert text == path.read_text()

    return check


@pytest.fixture
def snnc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Runs a command in an empty folder, where the default --out would go."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))

    def run(*args: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["snnc", *args])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run

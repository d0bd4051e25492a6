"""Shared fixtures: golden files, and one profile for all property tests (the same examples every time)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

Golden = Callable[[str], None]

settings.register_profile("snnc", derandomize=True, deadline=None, max_examples=30, database=None)
settings.load_profile("snnc")


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

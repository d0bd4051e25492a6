"""What the documents show runs as written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "tutorial.md"], ids=lambda p: p.name)
def test_the_ten_line_script_runs_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = (b for b in blocks(page, "python") if "snnc.load(" in b)
    shutil.copy(ROOT / "examples" / "digits_cnn.onnx", tmp_path / "model.onnx")
    shutil.copy(ROOT / "examples" / "digits.npz", tmp_path / "train.npz")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(script, page.name, "exec"), scope)
    import snnc

    recipe, ledger = scope["recipe"], scope["ledger"]
    assert isinstance(recipe, snnc.Pipeline)
    assert isinstance(ledger, snnc.Ledger)
    assert snnc.Pipeline.parse(str(recipe)) == recipe
    assert (ledger.rows[-1].accuracy or 0) > 0.95


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_pipeline_in_the_documents_parses(page: Path) -> None:
    import snnc

    for text in re.findall(r"--pipeline '([^'.]*?)'", page.read_text()):
        assert snnc.Pipeline.parse(text).passes


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_between_documents_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link

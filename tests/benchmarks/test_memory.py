"""The count of bytes saved for backward, and the table of it."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks.memory import Saved, main


def test_bytes_are_counted_while_they_are_held() -> None:
    x = torch.ones(10, 100, requires_grad=True)
    with Saved() as saved:
        y = x.exp()
        assert saved.now == 4000
        z = (y * y).sum()
        assert saved.now == 4000, "the same storage again"
        w = y.sin()
        assert saved.now == 4000
        v = (w.cos() + z).sum()
        assert saved.now == 8000
        v.backward()  # type: ignore[no-untyped-call]
        assert saved.now == 0
    assert saved.peak == 8000
    assert x.grad is not None
    e = torch.tensor(1.0).exp()
    expected = e * (-torch.sin(torch.sin(e)) * torch.cos(e) + 1000 * 2 * e)
    torch.testing.assert_close(x.grad, expected.expand(10, 100))


def test_counting_ends_with_the_block() -> None:
    with Saved() as saved:
        pass
    torch.ones(10, requires_grad=True).exp()
    assert saved.peak == 0


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """One row a rule; memory grows with T through time, not with SLTT."""
    main(["--steps", "1", "4", "--samples", "4", "bptt", "sltt{chunk=1}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["| rule | T = 1 | T = 4 |", "| --- | --- | --- |"]
    rows = {
        match[1]: (float(match[2]), float(match[3]))
        for line in lines
        if (match := re.match(r"\| `(\S+)` \| (\S+) \| (\S+) \|", line))
    }
    assert rows.keys() == {"bptt", "sltt{chunk=1}"}
    assert rows["sltt{chunk=1}"][0] == rows["sltt{chunk=1}"][1] > 0
    assert rows["bptt"][1] > 1.5 * rows["bptt"][0]

"""The ledger as text and as plain data."""

from __future__ import annotations

import json

import pytest

from snnc.report import Ledger, Row, change, percent, worst
from snnc.score import MSE

ROWS = [
    Row("fold-batchnorm", 0.9, "validation", "analog", 7, {"relu1": 0.0}, ("kept bn2 as a scale",), True, 1.23456),
    Row("replace-max-pool", 0.9, "validation", "analog", 7, {}, (), False, 0.0),
    Row(
        "ltl{epochs=2}",
        0.95,
        "validation",
        "constrained",
        9,
        {"a": 0.125, "b": 0.25},
        (),
        True,
        61.0,
        {"b": {"weight bits": 0.75, "inherited": 0.29999, "bias": -0.05, "leak": 1e-5}},
    ),
    Row("test", 0.5, "test"),
    Row("teacher", None),
]


def test_text() -> None:
    assert str(Ledger(ROWS)) == (
        "step            accuracy  change  seconds  largest layer error, main cause\n"
        "-- on the validation samples\n"
        "fold-batchnorm   90.00 %              1.2  relu1 0.0 %\n"
        "    kept bn2 as a scale\n"
        "ltl{epochs=2}    95.00 %   +5.00     61.0  b 25.0 % weight bits\n"
        "-- on the test samples\n"
        "test             50.00 %              0.0\n"
        "teacher                               0.0\n"
        "nothing to do: replace-max-pool"
    )


def test_json_is_plain_and_without_times_repeatable() -> None:
    made = Ledger(ROWS).to_json()
    assert json.loads(json.dumps(made)) == made
    assert made[0]["seconds"] == 1.235
    assert made[2]["error"] == {"a": 0.125, "b": 0.25}
    assert made[2]["causes"] == {"b": {"weight bits": 0.75, "inherited": 0.3, "bias": -0.05}}
    assert made[2]["worst"] == {"layer": "b", "error": 0.25, "cause": "weight bits"}
    assert (made[0]["causes"], made[0]["worst"]) == ({}, {"layer": "relu1", "error": 0.0, "cause": None})
    assert made[3]["worst"] is None
    assert made[4]["accuracy"] is None
    assert all("seconds" not in row for row in Ledger(ROWS).to_json(timed=False))


def test_rows_by_the_name_of_their_step() -> None:
    assert Ledger(ROWS)["ltl"] is ROWS[2]
    with pytest.raises(KeyError, match=r"no step is named 'lt1'.*replace-max-pool"):
        Ledger(ROWS)["lt1"]


def test_changes_compare_only_within_a_split() -> None:
    before: dict[str, float] = {}
    assert [change(row, before) for row in ROWS] == ["", "same", "+5.00", "", ""]
    assert before == {"validation": 0.95, "test": 0.5}
    assert change(Row("x", 0.4, "test"), before) == "-10.00"


def test_words() -> None:
    assert percent(0.97312) == "97.31 %"
    assert percent(None) == ""
    assert worst(Row("x", error={})) == ""
    assert worst(Row("x", error={"a": 0.5, "b": 0.264}, causes={"b": {"bias": 1.0}})) == "a 50.0 %"


def test_another_score_than_accuracy() -> None:
    """Its name heads the column, columns are as wide as they must be, and JSON has no accuracy."""
    ledger = Ledger(
        [
            Row("import", 0.0066, score=MSE),
            Row("ptl", 0.0231, notes=("a note",), score=MSE),
            Row("snn", 1234.5678, "test", score=MSE),
            Row("teacher", None),
        ]
    )
    assert ledger.score is MSE
    assert str(ledger) == (
        "step          mse   change  seconds  largest layer error, main cause\n"
        "-- on the validation samples\n"
        "import     0.0066               0.0\n"
        "ptl        0.0231  +0.0165      0.0\n"
        "    a note\n"
        "-- on the test samples\n"
        "snn          1235               0.0\n"
        "teacher                         0.0"
    )
    made = ledger.to_json(timed=False)
    assert [row["accuracy"] for row in made] == [None] * 4
    assert made[1]["score"] == {"name": "mse", "value": 0.0231}
    assert made[2]["score"] == {"name": "mse", "value": 1234.57}
    assert "score" not in made[3]
    assert Ledger([Row("x", 0.5)]).to_json()[0]["accuracy"] == 0.5
    assert [Row("x", 0.5).accuracy, Row("x", 0.5, score=MSE).accuracy] == [0.5, None]

"""The report of a compile as one page: no scripts, nothing loaded from anywhere, every text escaped.

Names of layers come from a user's model, so nothing reaches the page but through `text`. The page holds no times:
equal compiles give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from snnc.errors import printable
from snnc.score import ACCURACY, Score

from . import svg
from .ledger import Ledger, Row, change, percent, worst

LONGEST = 300
"""Characters of a text that are shown."""
SHOWN = 0.005
"""Shares of a cause below this are not written out."""
COST = {
    "synops": "SynOps",
    "input_macs": "MACs of the input layer, once",
    "ann_macs": "MACs of the model",
    "rate": "spikes per neuron and step",
    "weights": "weights that are not 0",
    "fan_in": "fan-in of",
}
"""What the numbers of the cost are called where their names do not say it."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may do for the page: nothing but show it."""
STYLE = """
:root { color-scheme: light dark; --soft: #6b6b6b; --line: #dcdcdc; }
@media (prefers-color-scheme: dark) { :root { --soft: #a2a2a2; --line: #444; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
table { border-collapse: collapse; margin: .4rem 0 1rem; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .22rem 1.1rem .22rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
td, p, summary { overflow-wrap: anywhere; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n, td.k { white-space: nowrap; } tr.part td { font-weight: 600; padding-top: .7rem; }
code { font: 13px/1.4 ui-monospace, monospace; } .soft { color: var(--soft); }
.box { border-left: 4px solid #d55e00; padding: .5rem 1rem; margin: 1rem 0; background: #d55e0014; }
summary { cursor: pointer; margin: .6rem 0; } summary code { margin-right: .7rem; }
details { overflow-x: auto; } svg { vertical-align: -2px; } .key { display: inline-block; margin-right: 1.2rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; vertical-align: -1px; }
"""


def page(ledger: Ledger, report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: what `report.json` holds: chips, cost, limits, unchecked and the diagnosis.
        facts: what the network was made from, as in the manifest.
    """
    origins = {layer["layer"]: layer["from"] for layer in report["diagnosis"].get("layers", [])}
    body = [
        "<h1>snnc: what the compile did</h1>", _made_from(facts),
        f'<div class="box"><b>Where it went:</b> {text(report["diagnosis"]["summary"])}</div>',
        "<h2>Every step</h2>", _ledger(ledger),
        *_causes(ledger, origins), *_gains(report["diagnosis"], ledger.score), *_chips(report["chips"], ledger.score),
        "<h2>Cost of one inference</h2>", _cost(report["cost"]),
        "<h2>Limits of the chip</h2>", _limits(report["limits"]),
        f'<p class="soft">Unchecked on the real chip: {text(", ".join(report["unchecked"]))}</p>',
    ]  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>snnc report</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def text(value: object, limit: int = LONGEST) -> str:
    """Any text, printable, cut and escaped."""
    return escape(printable(str(value), limit))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), tight: int = -1) -> str:
    """A table of cells that are HTML already; columns of `numbers` stand right, column `tight` is not broken."""
    kind = {**dict.fromkeys(numbers, ' class="n"'), tight: ' class="k"'}
    head = "".join(f"<th{kind.get(i, '')}>{name}</th>" for i, name in enumerate(heads))
    lines = ("".join(f"<td{kind.get(i, '')}>{cell}</td>" for i, cell in enumerate(row)) for row in rows)
    return f"<table><tr>{head}</tr>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _made_from(facts: Mapping[str, Any]) -> str:
    chosen = {name: facts[name] for name in ("target", "pipeline", "seed", "model", "data", "snnc") if name in facts}
    rows = ((text(name), f"<code>{text(value, 2000)}</code>") for name, value in chosen.items())
    return table(("", ""), rows, tight=0)


def _ledger(ledger: Ledger) -> str:
    """As the table of the terminal, without times; also the steps that found nothing to do."""
    before: dict[str, float] = {}
    rows, idle = [], []
    for row in ledger.rows:
        if not row.changed and not row.notes:
            idle.append(row.step)
            continue
        notes = "".join(f'<br><span class="soft">{text(note)}</span>' for note in row.notes)
        rows.append((
            f"<code>{text(row.step)}</code>{notes}", row.split if row.value is not None else "",
            row.figure, change(row, before), text(worst(row)),
        ))  # fmt: skip
    heads = "step", "samples", ledger.score.name, "change", "largest layer error, main cause"
    nothing = f'<p class="soft">Nothing to do: {text(", ".join(idle))}</p>' if idle else ""
    return table(heads, rows, (2, 3), tight=1) + nothing


def _causes(ledger: Ledger, origins: Mapping[str, list[str]]) -> list[str]:
    """A bar per layer for every step whose causes were measured; the last one is open."""
    measured = [row for row in ledger.rows if row.causes and row.changed]
    if not measured:
        return []
    every = [(name, share) for row in measured for shares in row.causes.values() for name, share in shares.items()]
    colours = svg.palette(name for name, share in sorted(every, key=lambda found: abs(found[1]) < SHOWN))
    seen = {name for name, share in every if abs(share) >= SHOWN}
    keys = "".join(
        f'<span class="key"><i style="background:{colour}"></i>{text(name)}</span>'
        for name, colour in colours.items()
        if name in seen
    )
    steps = [
        f"<details{' open' if row is measured[-1] else ''}><summary><code>{text(row.step)}</code>"
        f'<span class="soft">{text(worst(row))}</span></summary>{_bars(row, origins, colours)}</details>'
        for row in measured
    ]
    about = (
        "The error of a layer against the model's, ||network - model|| / ||model||, and the causes as shares of its "
        "square; one below 0 makes up for others. The longest bar is the largest error of the step."
    )
    return ["<h2>Why, layer by layer</h2>", f"<p>{about}</p><p>{keys}</p>", *steps]


def _bars(row: Row, origins: Mapping[str, list[str]], colours: Mapping[str, str]) -> str:
    """All layers of a step."""
    rows = []
    longest = max(row.error[name] for name in row.causes)
    for name, shares in row.causes.items():
        said = sorted(shares.items(), key=lambda item: -abs(item[1]))
        words = ", ".join(f"{cause} {100 * share:.0f} %" for cause, share in said if abs(share) >= SHOWN)
        bar = svg.stack(row.error[name] / longest, shares, colours)
        rows.append((text(name), _nodes(origins.get(name, [])), percent(row.error[name]), bar, text(words)))
    return table(("layer", "in&nbsp;your&nbsp;model", "error", "", "causes"), rows, (2,))


def _nodes(origin: list[str]) -> str:
    return f"<code>{text(', '.join(origin))}</code>" if origin else ""


def _gains(found: Mapping[str, Any], score: Score) -> list[str]:
    """What comes back at the output without each cause, and what to try; nothing where nothing was measured."""
    if "gains" not in found:
        return []
    made = [
        "<h2>What would come back</h2>",
        f"<p>{found['samples']} {'validation ' if found['judged_by'] == 'labels' else ''}samples. The output is off by "
        f"{percent(found['output_error']['network'])} of its norm, read out with the model's weights. Points that come "
        "back without a cause, alone and in turn; in turn they sum to the whole, but for the remainder.</p>",
    ]
    key = "accuracy" if score is ACCURACY else "score"
    rows = [
        (text(alone["off"]), *_cells(alone["output_error"], alone[key], score),
         *_cells(turn["output_error"], turn[key], score))
        for alone, turn in zip(found["gains"], found["gains_in_turn"], strict=True)
    ]  # fmt: skip
    left = _cells(found["output_error"]["remainder"], found[key]["remainder"], score)
    heads = "without", "output", score.name, "in turn: output", score.name
    made.append(table(heads, [*rows, ("remainder", "", "", *left)], range(1, 5)))
    if found["advice"]:
        tries = [(
            f"<code>{text(setting['try'])}</code>", text(setting["about"]),
            f"{percent(setting['error'])} to {'' if setting['exact'] else 'at best '}{percent(setting['after'])}",
            _points(setting["output_error"]),
        ) for setting in found["advice"]]  # fmt: skip
        made.append(f"<p>For the worst layer, {text(found['worst'])}, the best first:</p>")
        made.append(table(("try", "because", "the layer's error", "output"), tries, (3,), tight=2))
    return made


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _cells(error: float, value: float, score: Score) -> tuple[str, str]:
    return _points(error), score.change(value, 0.0)


def _chips(chips: Sequence[Mapping[str, Any]], score: Score) -> list[str]:
    """Every simulated device before and after calibration; shares of right answers as a picture too."""
    if not chips:
        return []
    title = "<h2>Simulated chips, on test samples</h2>"
    if score is not ACCURACY:
        figures = ((str(chip["seed"]), score.text(chip["before"]), score.text(chip["after"])) for chip in chips)
        return [title, table(("chip", "before", "calibrated"), figures, (0, 1, 2))]
    lowest = min(chip[key] for chip in chips for key in ("before", "after"))
    lowest = int(20 * lowest) / 20 if lowest < 1 else 0.95
    rows = [
        (str(chip["seed"]), percent(chip["before"]), percent(chip["after"]),
         svg.move(chip["before"], chip["after"], lowest))
        for chip in chips
    ]  # fmt: skip
    heads = "chip", "before", "calibrated", f"{percent(lowest)} to 100 %: hollow before, full calibrated"
    return [title, table(heads, rows, (0, 1, 2))]


def _cost(cost: Mapping[str, Any]) -> str:
    flat: dict[str, Any] = {}
    for name, value in cost.items():
        word = COST.get(name, name)
        flat |= {f"{word} {key}": v for key, v in value.items()} if isinstance(value, Mapping) else {word: value}
    rows = ((text(name), text(_number(value))) for name, value in flat.items())
    return table(("", ""), rows, (1,))


def _number(value: object) -> object:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _limits(limits: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (text(found["limit"]), text(found["layer"]), text(_number(found["value"])), text(_number(found["allowed"])),
         "within" if found["ok"] else "<b>beyond</b>", text(found["note"]))
        for found in limits
    ]  # fmt: skip
    return table(("limit", "layer", "is", "allowed", "", "note"), rows, (2, 3))

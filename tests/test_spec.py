"""The one language of script and shell: text <-> frozen dataclasses, and the registries behind it."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any, ClassVar, Literal, Optional, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnc import spec
from snnc.errors import PipelineError
from snnc.ir import Graph, Stage
from snnc.passes import PASSES, LimitFanIn, QuantizeWeights, ThresholdLayerNorm
from snnc.pipeline import Context, Pass, Pipeline
from snnc.sim.cores import CORE
from snnc.targets import TARGETS, DynapSim
from snnc.targets.dynap_sim.profile import BUILT_IN
from snnc.train import LTL, TRAINERS

CLASSES = {**PASSES.table, **TRAINERS.table, **TARGETS.table}
SHARES = st.floats(0.001, 0.999)
NARROW: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("quantize-weights", "bits"): st.integers(2, 8),
    ("quantize-weights", "core"): st.just(CORE),  # any other goes with per=core only
    ("quantize-weights", "levels"): st.just("symmetric"),  # the others go with some bits and steps only
    ("quantize-neurons", "bits"): st.integers(2, 16),  # no wider than the accumulator, however wide that is
    ("quantize-neurons", "accumulator"): st.integers(16, 24),
    ("quantize-neurons", "shift"): st.integers(0, 16),
    ("ptl", "bits"): st.integers(2, 8),
    ("ottt", "batchnorm"): st.just(False),  # it has none
    ("dynap-sim", "profile"): st.sampled_from(BUILT_IN),
    ("dynap-sim", "bits"): st.none() | st.integers(2, 8),
    ("dynap-sim", "guard_bits"): st.none() | st.integers(0, 16),
    ("dynap-sim", "mismatch"): st.none() | st.just(0.0),  # others go with some presets only
    ("dynap-sim", "defect_map"): st.just(""),  # a file that exists
    ("dynap-sim", "rewire"): st.just(0) | st.integers(2, 10**6),
    ("dynap-sim", "sharing"): st.just("physical"),  # the other goes with some presets only
    ("limit-biases", "bits"): st.integers(2, 8),
    ("threshold-layernorm", "skip"): st.just(0),  # fewer than the steps, however few those are
}
"""Options with bounds of their own; the rest are fine with any share or any count."""


@dataclass(frozen=True)
class Toy:
    """Every kind of option there is."""

    name: ClassVar[str] = "toy"

    need: int
    share: float = 0.5
    flag: bool = False
    way: Literal["up", "down"] = "up"
    cap: int | None = None
    old: Optional[float] = None  # noqa: UP045 (plug-ins may be written so)
    word: str = "x"


TOYS = {"toy": Toy}


def values(name: str, field: str, hint: Any) -> st.SearchStrategy[Any]:
    if (name, field) in NARROW:
        return NARROW[name, field]
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    parts = get_args(hint)
    if parts:
        return st.one_of(*(st.none() if part is type(None) else values(name, field, part) for part in parts))
    return {int: st.integers(1, 10**6), float: SHARES, bool: st.booleans()}[hint]


@st.composite
def configured(draw: st.DrawFn) -> Any:
    """Any pass, trainer or target with any options."""
    cls: Any = CLASSES[draw(st.sampled_from(sorted(CLASSES)))]
    hints = get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if draw(st.booleans())]
    drawn = {f.name: draw(values(cls.name, f.name, hints[f.name])) for f in fields}
    if drawn.get("batchnorm"):
        drawn.pop("standardize", None)  # no rule has both
    return cls(**drawn)


@given(configured())
def test_text_and_object_are_inverse(made: Any) -> None:
    text = spec.to_spec(made)
    assert spec.from_spec(text, CLASSES) == made
    assert spec.to_spec(spec.from_spec(text, CLASSES)) == text


@given(st.lists(configured(), max_size=4))
def test_lists_split_where_they_were_joined(made: list[Any]) -> None:
    text = ",".join(map(spec.to_spec, made))
    assert [spec.build(CLASSES[name], options) for name, options in spec.split_specs(text)] == made


def test_defaults_are_not_printed_and_order_is_that_of_the_fields() -> None:
    assert str(LTL()) == "ltl"
    assert str(LTL(rate=0.5, epochs=2)) == "ltl{epochs=2 rate=0.5}"
    assert spec.from_spec(" ltl { rate=0.5   epochs=2 } ", TRAINERS) == LTL(epochs=2, rate=0.5)


def test_every_kind_of_option() -> None:
    text = "toy{need=3 share=1e-05 flag=true way=down cap=7 old=0.25 word=y}"
    assert spec.from_spec(text, TOYS) == Toy(3, 1e-5, True, "down", 7, 0.25, "y")
    assert spec.to_spec(Toy(3, 1e-5, True, "down", 7, 0.25, "y")) == text
    assert spec.from_spec("toy{need=-3 flag=false cap=none old=none}", TOYS) == Toy(-3)


def test_equal_objects_have_equal_text_whatever_numbers_they_were_made_of() -> None:
    """An artifact's digest holds this text: script and shell must write the same."""
    assert spec.to_spec(LTL(rate=2)) == spec.to_spec(LTL(rate=2.0)) == "ltl{rate=2.0}"
    assert spec.to_spec(LTL(rate=np.float64(0.25))) == "ltl{rate=0.25}"
    assert spec.to_spec(QuantizeWeights(bits=np.int64(5))) == "quantize-weights{bits=5}"  # type: ignore[arg-type]


def test_all_mistakes_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        spec.from_spec("toy{share=much flag=yes way=left cap=1.5 colour=red}", TOYS)
    assert str(caught.value) == (
        "the options of 'toy' are wrong\n"
        "  - option share=much of 'toy' is not float\n"
        "  - option flag=yes of 'toy' is not bool\n"
        "  - option way=left of 'toy' is not up|down\n"
        "  - option cap=1.5 of 'toy' is not int or none\n"
        "  - 'toy' has no option 'colour'\n"
        "      try: one of need, share, flag, way, cap, old, word\n"
        "  - 'toy' needs the option 'need'\n"
        "      try: toy{need=...}"
    )


@pytest.mark.parametrize("text", ["True", "1", "", "TRUE", "no"])
def test_booleans_are_true_or_false_and_nothing_else(text: str) -> None:
    with pytest.raises(PipelineError):
        spec.build(Toy, {"need": "1", "flag": text})


def test_a_value_out_of_range_is_the_passes_own_error() -> None:
    with pytest.raises(PipelineError, match=r"'quantize-weights' knows 2 to 8 bits, not 9"):
        spec.from_spec("quantize-weights{bits=9}", PASSES)
    for text in ("ltl{rate=inf}", "ltl{rate=nan}", "ltl{epochs=0}", "ltl{width=-1.0}"):
        with pytest.raises(PipelineError, match="'ltl' cannot work with"):
            spec.from_spec(text, TRAINERS)
    with pytest.raises(PipelineError, match=r"mismatch=nan, rate=inf"):
        spec.from_spec("dynap-sim{mismatch=nan rate=inf}", TARGETS)


@pytest.mark.parametrize(
    ("text", "character", "rest"),
    [
        ("ltl{epochs=1", 1, "ltl{epochs=1"),
        ("ltl}", 1, "ltl}"),
        ("ltl,,ltl", 5, ",ltl"),
        (",ltl", 1, ",ltl"),
        ("ltl,lt l", 5, "lt l"),
        ("ltl{a=1}{b=2}", 1, "ltl{a=1}{b=2}"),
        ("ltl{a={1}}", 1, "ltl{a={1}}"),
        ("ltl;ltl", 1, "ltl;ltl"),
    ],
)
def test_malformed_text_says_where(text: str, character: int, rest: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec.split_specs(text)
    assert caught.value.message == f"cannot read '{rest}'"
    assert caught.value.at == f"character {character} of '{text}'"
    assert caught.value.hint == "name{key=value key=value},name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ltl,", "'ltl,' ends with a comma"),
        ("ltl{epochs}", "option 'epochs' of 'ltl' is not key=value"),
        ("ltl{=1}", "option '=1' of 'ltl' is not key=value"),
        ("ltl{epochs=}", "option 'epochs=' of 'ltl' is not key=value"),
        ("ltl{epochs=1 epochs=2}", "option 'epochs' of 'ltl' is given twice"),
    ],
)
def test_malformed_options(text: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        spec.split_specs(text)
    assert caught.value.message == message


@given(st.text(alphabet="ab,{}= \n-1", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = spec.split_specs(text)
    except PipelineError:
        return
    again = ",".join(f"{n}{{{' '.join(f'{k}={v}' for k, v in o.items())}}}" for n, o in found)
    assert spec.split_specs(again) == found


def test_one_name_is_one_name() -> None:
    for text in ("", "ltl,ltl"):
        with pytest.raises(PipelineError, match="should be one name"):
            spec.from_spec(text, TRAINERS)


def test_an_unknown_name_lists_the_candidates() -> None:
    with pytest.raises(PipelineError) as caught:
        PASSES["fold"]
    assert caught.value.message == "no pass is named 'fold'"
    assert caught.value.hint == f"one of {', '.join(sorted(PASSES.table))}"
    with pytest.raises(PipelineError, match="no pass or trainer is named 'lt1'") as both:
        Pipeline.parse("ltl,lt1")
    assert "ltl" in both.value.hint
    assert "limit-fan-in" in both.value.hint


def test_describe() -> None:
    assert spec.describe(Toy) == [
        ("need", "int", "required"),
        ("share", "float", "0.5"),
        ("flag", "bool", "false"),
        ("way", "up|down", "up"),
        ("cap", "int or none", "none"),
        ("old", "float or none", "none"),
        ("word", "str", "x"),
    ]


# --- plug-ins


@dataclass(frozen=True)
class Plugged(Pass):
    """A pass of another package."""

    name = "plugged"
    takes = frozenset(Stage)
    depth: int = 1

    def run(self, graph: Graph, ctx: Context) -> Graph:
        return graph


@dataclass(frozen=True)
class Misnamed(Plugged):
    name = "something-else"


NO_CLASS = 7


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that other packages registered passes: name -> object in this file."""

    def install(*points: tuple[str, str]) -> None:
        real = metadata.entry_points

        def entry_points(**select: str) -> Any:
            if select.get("group") != "snnc.passes":
                return real(**select)
            made = [metadata.EntryPoint(name, value, "snnc.passes") for name, value in points]
            return metadata.EntryPoints(made)

        monkeypatch.setattr(metadata, "entry_points", entry_points)

    return install


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """This file under a name that an entry point can import."""
    monkeypatch.setitem(sys.modules, "a_plugin", sys.modules[__name__])
    return "a_plugin"


def test_a_good_plug_in_is_found(plug: Any, here: str) -> None:
    assert "plugged" not in PASSES
    plug(("plugged", f"{here}:Plugged"))
    assert PASSES["plugged"] is Plugged
    assert "plugged" in PASSES
    assert len(PASSES) == len(PASSES.table) + 1
    assert Pipeline.parse("plugged{depth=2},limit-fan-in") == Pipeline(Plugged(2), LimitFanIn())


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_package_of_snnc:Pass", "No module named 'no_such_package_of_snnc'"),
        ("a_plugin:Missing", "has no attribute 'Missing'"),
        ("a_plugin:NO_CLASS", "it is no dataclass with name = 'plugged'"),
        ("a_plugin:Misnamed", "it is no dataclass with name = 'plugged'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_broken_plug_in_is_named(plug: Any, value: str, why: str) -> None:
    plug(("plugged", value))
    with pytest.raises(PipelineError) as caught:
        Pipeline.parse("plugged")
    assert caught.value.message.startswith(f"the plug-in pass 'plugged' ({value}) is broken: ")
    assert why in caught.value.message


def test_a_broken_plug_in_does_not_disturb_the_others(plug: Any) -> None:
    plug(("broken", "no_such_package_of_snnc:Pass"))
    assert Pipeline.parse("limit-fan-in").passes == (LimitFanIn(),)


def test_two_plug_ins_of_one_name_are_ambiguous(plug: Any, here: str) -> None:
    plug(("plugged", f"{here}:Plugged"), ("plugged", f"{here}:Misnamed"))
    with pytest.raises(PipelineError, match=r"2 plug-ins name a pass 'plugged': a_plugin:Misnamed, a_plugin:Plugged"):
        PASSES["plugged"]


def test_targets_speak_the_same_language() -> None:
    assert str(DynapSim(steps=8, mismatch=0.0)) == "dynap-sim{steps=8 mismatch=0.0}"
    assert spec.from_spec("dynap-sim{steps=8 mismatch=0}", TARGETS) == DynapSim(steps=8, mismatch=0.0)
    assert str(ThresholdLayerNorm(code="first-step")) == "threshold-layernorm{code=first-step}"


@dataclass(frozen=True)
class Worded:
    """An option whose words include `none`."""

    name = "worded"
    word: Literal["none", "some"] | None = None
    number: int | None = 3


def test_none_is_a_word_where_it_is_one() -> None:
    """`preset=none` switches off; it does not mean that nothing was said."""
    made = spec.build(Worded, {"word": "none", "number": "none"})
    assert made == Worded("none", None)
    assert spec.to_spec(made) == "worded{word=none number=none}"

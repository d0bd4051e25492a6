"""The chip description: three built-in ones, users' own, strictly read; every number with its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snnc.errors import PipelineError
from snnc.targets.dynap_sim.profile import BUILT_IN, LARGEST, VALUES, Profile, from_json, load_profile
from snnc.targets.dynap_sim.schema import unit_of


def written(folder: Path, text: str) -> Path:
    path = folder / "mychip.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> list[str]:
    with pytest.raises(PipelineError) as caught:
        load_profile(written(folder, text))
    assert "mychip.toml" in str(caught.value)
    return [p.message for p in caught.value.problems] or [caught.value.message]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profiles_have_a_marked_source_for_every_value(name: str) -> None:
    profile = load_profile(name)
    assert (profile.name, str(profile)) == (name, name)
    assert set(profile.sources) == set(VALUES)
    assert not [text for text in profile.sources.values() if text.startswith("[U]")]
    assert from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_what_the_chips_are() -> None:
    se2, se1, ideal = (load_profile(name) for name in BUILT_IN)
    assert (se2.neurons_per_chip, se2.fan_in, se2.destinations, se2.tags, se2.hop_range) == (1024, 64, 4, 2048, 7)
    assert (se2.weight_coding, se2.weight_bits, se2.reset) == ("masks", 4, "zero")
    assert (se1.tags, se1.hop_range, se1.weight_coding, se1.weight_bits) == (1024, 3, "repeated", 1)
    assert (se1.fan_in, se1.neurons_per_core, se1.times.tau_mem) == (64, 256, se2.times.tau_mem)
    assert (ideal.weight_coding, ideal.shared_per_core, ideal.mismatch.sigma) == ("free", (), 0.0)
    assert not se2.energy.verified
    assert se2.source("energy.broadcast").startswith("[M] ")


def test_a_users_profile_overrides_its_base(tmp_path: Path) -> None:
    text = 'base = "se2"\nfan_in = 128\n[energy]\nvoltage = 1.3\n[sources]\nfan_in = "[V] data sheet"\n'
    profile, base = load_profile(written(tmp_path, text)), load_profile("se2")
    assert (profile.name, profile.fan_in, profile.energy.voltage) == ("mychip", 128, 1.3)
    assert (profile.energy.broadcast, profile.times) == (base.energy.broadcast, base.times)
    assert profile.source("fan_in") == "[V] data sheet"
    assert profile.source("energy.voltage") == "[U] mychip.toml", "the base's source does not speak for it"
    assert profile.source("energy.route") == base.source("energy.route")


def test_without_a_base_everything_must_be_said(tmp_path: Path) -> None:
    missing = refused(tmp_path, "fan_in = 64\n")
    assert "'chips' is missing" in missing
    assert "'energy.voltage' is missing" in missing
    assert len(missing) == len(VALUES) - 1


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = """
    base = "se2"
    fanin = 64
    fan_in = 0
    chips = true
    tag_bits = 11.0
    hop_range = "7"
    weight_coding = "analog"
    shared_per_core = ["threshold", "colour"]
    per_neuron_bits = "dc"
    times = 3
    [energy]
    voltage = inf
    verified = 1
    joules = 1
    [mismatch]
    sigma = 2
    """
    assert refused(tmp_path, text) == [
        "'fanin' is no known key",
        "'chips' is True, not a whole number",
        "'fan_in' is 0, allowed are 1 to 1048576",
        "'tag_bits' is 11.0, not a whole number",
        "'hop_range' is '7', not a whole number",
        '\'weight_coding\' is \'analog\', not "masks" | "repeated" | "free"',
        '\'shared_per_core[1]\' is \'colour\', not "threshold" | "tau_mem" | "tau_syn" | "gain" | "t_ref" | '
        '"dc" | "base_weights"',
        "'per_neuron_bits' is not a list of at most 64",
        "'times' is not a table",
        "'mismatch.sigma' is 2, allowed are 0 to 1",
        "'energy.joules' is no known key",
        "'energy.voltage' is inf, not a number",
        "'energy.verified' is 1, not true | false",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('base = "se3"', "base is 'se3', no built-in profile"),
        ('base = "../se2"', "base is '../se2', no built-in profile"),
        ("base = [1]", "base is [1], no built-in profile"),
        ("fan_in = ", "the profile is no TOML: Invalid value (at end of document)"),
        ('base = "se2"\nname = "a b"', "'name' is 'a b'"),
        ('base = "se2"\nname = "../x"', "'name' is '../x'"),
        ('base = "se2"\nmonitor_words = 4', "'monitor_words' 4 leave no destination"),
        ('base = "se2"\nshared_per_core = ["dc", "dc"]', "'shared_per_core' names something twice"),
        ('base = "se2"\n[bias_generator]\ncoarse = 5', "'bias_generator.full_scale' are not 5 ascending currents"),
        ('base = "se2"\n[sources]\nfan_in = "data sheet"', "'sources.fan_in' does not begin with an evidence mark"),
        ('base = "se2"\n[sources]\nfanin = "[V] x"', "'sources.fanin' speaks of a value that there is not"),
        ('base = "se2"\n[sources]\nfan_in = 3', "'sources.fan_in' is 3, not a text of 1 to 400 printable characters"),
        ('base = "se2"\nsources = 3', "'sources' is not a table"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, problem: str) -> None:
    assert refused(tmp_path, text) == [problem]


def test_files_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no profile is named 'se3'") as caught:
        load_profile("se3")
    assert caught.value.hint == "one of se2, se1, ideal, or the path of a .toml file"
    with pytest.raises(PipelineError, match="there is no such profile"):
        load_profile(tmp_path / "none.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(PipelineError, match="there is no such profile"):
        load_profile(tmp_path / "folder.toml")
    assert refused(tmp_path, "#" * (LARGEST + 1)) == [f"the profile is larger than {LARGEST} bytes"]
    (tmp_path / "mychip.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(PipelineError, match="is no TOML"):
        load_profile(tmp_path / "mychip.toml")


@pytest.mark.parametrize("table", [None, [], {}, {"base": "se2"}])
def test_json_that_is_no_profile(table: object) -> None:
    with pytest.raises(PipelineError):
        from_json(table)


def test_json_has_no_base() -> None:
    table = load_profile("se2").to_json()
    assert isinstance(from_json(table), Profile)
    del table["fan_in"]
    with pytest.raises(PipelineError, match="'fan_in' is missing"):
        from_json(table)


# --- the page of the documents


def shown(value: object) -> str:
    """A value as the page has it."""
    if isinstance(value, tuple):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table() -> str:
    """Every value of the built-in profiles with its unit and the source of the first one."""
    profiles = [load_profile(name) for name in BUILT_IN]
    lines = [f"| value | {' | '.join(BUILT_IN)} | unit | source |", "| --- " * (len(BUILT_IN) + 3) + "|"]
    for name in VALUES:
        found = []
        for value in profiles:
            for part in name.split("."):
                value = getattr(value, part)
            found.append(shown(value))
        lines.append(f"| `{name}` | {' | '.join(found)} | {unit_of(Profile, name)} | {profiles[0].source(name)} |")
    return "\n".join(lines)


def test_the_page_shows_every_number_with_its_source() -> None:
    page = Path(__file__).parents[2] / "docs" / "dynap-sim.md"
    assert table() in page.read_text(), "make the table anew: print(tests.targets.test_profile.table())"

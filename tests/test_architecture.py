"""Who may import whom, and what must not appear: read from the syntax trees, function-level imports too."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from snnc.passes import PASSES
from snnc.targets import TARGETS
from snnc.train import TRAINERS

ROOT = Path(__file__).parent.parent

LOW = {"errors", "ir", "spec", "report", "score", "signals", "sim", "data", "pipeline"}
TOP = {*LOW, "artifact", "target", "passes", "train", "targets", "importer"}
MAY: dict[str, set[str]] = {
    "errors": set(),
    "ir": {"errors"},
    "spec": {"errors"},
    "signals": {"errors"},
    "score": {"errors", "ir", "signals"},
    "report": {"errors", "ir", "score"},
    "sim": {"errors", "ir", "score"},
    "frames": {"errors", "ir"},
    "samples": {"errors", "ir", "score"},
    "data": {"errors", "frames", "ir", "samples", "score"},
    "importer": {"errors", "ir"},
    "pipeline": {"errors", "ir", "spec", "report", "score", "sim", "data"},
    "artifact": {"errors", "ir"},
    "target": {*LOW, "artifact"},
    "passes": LOW - {"report"},
    "train": LOW - {"report"},
    "targets": {*LOW, "artifact", "target", "passes", "train"},
    "feasibility": {"errors", "importer", "ir", "passes", "pipeline", "target"},
    "inspection": {"ir", "sim"},
    "population": {"artifact", "data", "errors", "pipeline", "report", "score", "target", "train"},
    "trial": {"data", "importer", "ir", "pipeline", "population", "report", "sim", "target"},
    "search": {*LOW, "passes", "train"},
    "provenance": {"data", "importer", "ir", "pipeline", "score", "target"},
    "compiler": {*TOP, "provenance", "search", "trial"},
    "api": {*TOP, "compiler", "feasibility", "inspection", "provenance", "search"},
    "cli": {*TOP, "feasibility", "inspection", "population", "search", "api", "snnc"},
    "snnc": {*TOP, "feasibility", "api"},
    "__main__": {"cli"},
}
"""Room -> rooms that it may import, besides itself; `snnc` is the package's own __init__."""

LATE = {("snnc/pipeline.py", "passes"), ("snnc/pipeline.py", "train")}
"""Imports inside a function that the table would refuse: the registries name classes that import the pipeline."""

ONLY_IN = {"onnx": "importer", "onnxruntime": "importer", "google": "importer", "click": "cli", "rich": "cli"}
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BANNED_CALLS = {"eval", "exec", "__import__"}
LONG_FILE, LONGEST_FILE = 300, 500
LONG_FUNCTION, LONGEST_FUNCTION = 60, 100


@dataclass(frozen=True)
class Source:
    """One file of the product: its path under the root, its dotted module, its room, its tree."""

    path: str
    module: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return room(self.module)


def room(module: str) -> str:
    """`snnc.sim.torch` -> `sim`, `snnc` -> `snnc`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def sources(root: Path) -> list[Source]:
    """All files of snnc/, passes/ and targets/, each once: the links inside snnc/ are left out."""
    found = []
    for top in ("snnc", "passes", "targets"):
        for path in sorted((root / top).rglob("*.py")):
            inside = path.relative_to(root)
            if inside.parts[:2] in (("snnc", "passes"), ("snnc", "targets")) or "__pycache__" in inside.parts:
                continue
            parts = [*(() if top == "snnc" else ("snnc",)), *inside.with_suffix("").parts]
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Source(str(inside), module, parsed(path.read_text())))
    return found


@functools.cache
def parsed(text: str) -> ast.Module:
    """The tree of a file; most files are the same in every copy."""
    return ast.parse(text)


@functools.cache
def import_nodes(tree: ast.Module) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement, and whether it stands inside a function."""
    found: list[tuple[ast.Import | ast.ImportFrom, bool]] = []

    def visit(node: ast.AST, late: bool) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append((node, late))
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(tree, False)
    return found


def imports(source: Source, modules: set[str]) -> Iterator[tuple[str, int, bool]]:
    """Every module that is imported: its dotted name, the line, and whether inside a function."""
    is_package = source.path.endswith("__init__.py")
    for node, late in import_nodes(source.tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno, late) for name in node.names)
        else:
            base = node.module or ""
            if node.level:
                here = source.module.split(".")[: None if is_package else -1]
                here = here[: len(here) - (node.level - 1)]
                base = ".".join([*here, *([node.module] if node.module else [])])
            for name in node.names:
                full = f"{base}.{name.name}"
                yield (full if full in modules or base in ("snnc", "google") else base), node.lineno, late


def import_problems(root: Path) -> list[str]:
    """Imports against the table, foreign packages outside their room, passes and targets that know each other."""
    files = sources(root)
    modules = {s.module for s in files}
    found = []
    for source in files:
        for name, line, late in imports(source, modules):
            place = f"{source.path}:{line}"
            top = name.split(".")[0]
            if top in ("passes", "targets"):
                found.append(f"{place}: bare import of '{name}' makes second copies of its classes")
            if top in ONLY_IN and source.room != ONLY_IN[top]:
                found.append(f"{place}: '{top}' belongs to {ONLY_IN[top]}")
            if top in BANNED_MODULES:
                found.append(f"{place}: '{name}' is banned")
            if top == "snnc":
                found += [f"{place}: {why}" for why in _inside(source, name, modules, late)]
    return found


def _inside(source: Source, name: str, modules: set[str], late: bool) -> list[str]:
    wanted = room(name)
    if source.room not in MAY:
        return [f"the room '{source.room}' is not in the table"]
    if name != "snnc" and wanted not in {room(m) for m in modules}:
        wanted = "snnc"  # a public name of the package itself
    if wanted == source.room:
        return _neighbours(source, name)
    if wanted in MAY[source.room] or (late and (source.path, wanted) in LATE):
        return []
    return [f"'{source.room}' imports '{wanted}'"]


def _neighbours(source: Source, name: str) -> list[str]:
    """A pass imports no other pass, a target no other target; only the registry knows them all."""
    if source.room not in ("passes", "targets") or source.module == f"snnc.{source.room}":
        return []
    mine, other = source.module.split(".")[2], [*name.split("."), ""][2]
    return [] if other == mine else [f"'{mine}' imports its neighbour '{other or source.room}'"]


def call_problems(root: Path) -> list[str]:
    """Calls that run or unpickle what they read."""
    found = []
    for source in sources(root):
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in BANNED_CALLS or called in ("torch.load", "builtins.eval", "builtins.exec", "np.fromfile"):
                found.append(f"{source.path}:{node.lineno}: {called}()")
            pickled = [ast.unparse(key.value) for key in node.keywords if key.arg == "allow_pickle"]
            if pickled not in ([], ["False"]):
                found.append(f"{source.path}:{node.lineno}: allow_pickle={pickled[0]}")
            if called in ("np.load", "numpy.load") and not pickled:
                found.append(f"{source.path}:{node.lineno}: {called}() that does not say allow_pickle=False")
    return found


def package_problems(root: Path) -> list[str]:
    """pyproject's package list against the folders, and the two links."""
    declared = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    present = {s.module for s in sources(root) if s.path.endswith("__init__.py")}
    found = [f"'{name}' is not in pyproject's packages" for name in sorted(present - set(declared["packages"]))]
    found += [f"'{name}' is no package folder" for name in sorted(set(declared["packages"]) - present)]
    for name in ("passes", "targets"):
        link = root / "snnc" / name
        if not link.is_symlink() or str(link.readlink()) != f"../{name}":
            found.append(f"snnc/{name} is not the link ../{name}")
        if declared["package-dir"].get(f"snnc.{name}") != name:
            found.append(f"package-dir does not map snnc.{name}")
    return found


def registry_problems(root: Path, folder: str, tests: str, names: set[str], helpers: set[str]) -> list[str]:
    """Rows against files: every row has its file or folder and its test, every file its row."""
    stems = {name.replace("-", "_") for name in names}
    place = root / folder
    present = {p.stem for p in place.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    present -= {"__init__", *helpers}
    found = [f"'{stem}' has no file in {folder}/" for stem in sorted(stems - present)]
    found += [f"{folder}/{stem} has no row in the registry" for stem in sorted(present - stems)]
    return found + [
        f"{tests}/test_{s}.py is missing" for s in sorted(stems) if not (root / tests / f"test_{s}.py").is_file()
    ]


def sizes(root: Path) -> list[tuple[int, int, str]]:
    """(size, hard cap, what) of every file and function that is longer than it should be."""
    found = []
    for source in sources(root):
        lines = max((getattr(node, "end_lineno", 0) or 0 for node in source.tree.body), default=0)
        if lines > LONG_FILE:
            found.append((lines, LONGEST_FILE, source.path))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONG_FUNCTION:
                    found.append((length, LONGEST_FUNCTION, f"{source.path}:{node.lineno} {node.name}"))
    return found


# --- the product keeps the rules


def test_imports_go_one_way() -> None:
    assert len(sources(ROOT)) > 30, "the walk must see the product"
    assert import_problems(ROOT) == []


def test_nothing_is_unpickled_or_evaluated() -> None:
    assert call_problems(ROOT) == []


def test_packages_are_listed_and_the_links_are_links() -> None:
    assert package_problems(ROOT) == []


def test_the_late_imports_are_still_needed() -> None:
    files = sources(ROOT)
    modules = {s.module for s in files}
    seen = {(s.path, room(name)) for s in files for name, _, late in imports(s, modules) if late}
    assert seen >= LATE


def test_the_table_has_no_dead_rows() -> None:
    assert set(MAY) == {s.room for s in sources(ROOT)}


@pytest.mark.parametrize(
    ("folder", "tests", "names", "helpers"),
    [
        ("passes", "tests/passes", set(PASSES.table), set()),
        ("targets", "tests/targets", set(TARGETS.table), set()),
        (
            "snnc/train",
            "tests/train",
            set(TRAINERS.table),
            {
                "trainer",
                "loop",
                "units",
                "checkpoint",
                "state",
                "parallel",
                "augment",
                "losses",
                "tensorboard",
                "coupled",
                "targets",
                "readout",
                "local",
                "end_to_end",
                "optimizers",
                "seen",
                "per_step",
                "batchnorm",
                "beside",
            },
        ),
    ],
)
def test_registries_match_their_folders(folder: str, tests: str, names: set[str], helpers: set[str]) -> None:
    assert registry_problems(ROOT, folder, tests, names, helpers) == []


@pytest.mark.parametrize("table", [PASSES.table, TRAINERS.table, TARGETS.table], ids=["passes", "trainers", "targets"])
def test_a_row_has_the_name_of_its_class(table: dict[str, type]) -> None:
    for name, cls in table.items():
        assert cls.name == name  # type: ignore[attr-defined]
        assert name.replace("-", "_") in cls.__module__.split(".")


def test_sizes() -> None:
    found = sizes(ROOT)
    print("\n".join(f"{size:4d}  {what}" for size, _, what in sorted(found, reverse=True)))
    assert [what for size, cap, what in found if size > cap] == []


# --- every rule is broken on purpose, and seen


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the product that a test may spoil."""
    for top in ("snnc", "passes", "targets"):
        shutil.copytree(ROOT / top, tmp_path / top, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "line", "caught"),
    [
        ("snnc/ir/graph.py", "from snnc.sim import torch", "'ir' imports 'sim'"),
        ("snnc/ir/graph.py", "from ..sim.torch import run", "'ir' imports 'sim'"),
        ("snnc/ir/graph.py", "def f():\n    import snnc.sim.torch", "'ir' imports 'sim'"),
        ("snnc/ir/graph.py", "from snnc import data", "'ir' imports 'data'"),
        ("snnc/ir/graph.py", "from .. import data", "'ir' imports 'data'"),
        ("snnc/ir/graph.py", "import snnc", "'ir' imports 'snnc'"),
        ("snnc/ir/graph.py", "from snnc import Pipeline", "'ir' imports 'snnc'"),
        ("snnc/sim/cost.py", "from snnc.pipeline import Pass", "'sim' imports 'pipeline'"),
        ("snnc/pipeline.py", "from .passes import PASSES", "'pipeline' imports 'passes'"),
        ("snnc/pipeline.py", "def f():\n    from .targets import TARGETS", "'pipeline' imports 'targets'"),
        ("snnc/data.py", "def f():\n    from .train import TRAINERS", "'data' imports 'train'"),
        ("snnc/artifact.py", "from .importer import load", "'artifact' imports 'importer'"),
        ("snnc/importer/build.py", "from snnc.sim.reference import run", "'importer' imports 'sim'"),
        ("snnc/train/ltl.py", "from snnc.target import Chip", "'train' imports 'target'"),
        ("passes/bias_per_step.py", "from snnc.train import LTL", "'passes' imports 'train'"),
        ("passes/bias_per_step.py", "from .pool_neurons import PoolNeurons", "imports its neighbour 'pool_neurons'"),
        ("passes/bias_per_step.py", "from snnc.passes import pool_neurons", "imports its neighbour"),
        ("passes/bias_per_step.py", "from . import PASSES", "imports its neighbour"),
        ("passes/bias_per_step.py", "import passes.pool_neurons", "bare import"),
        ("passes/bias_per_step.py", "from targets import DynapSim", "bare import"),
        ("targets/second.py", "from .dynap_sim.place import place", "'second' imports its neighbour 'dynap_sim'"),
        ("snnc/sim/torch.py", "def f():\n    import onnx.helper", "'onnx' belongs to importer"),
        ("snnc/api.py", "from google.protobuf import message", "'google' belongs to importer"),
        ("snnc/data.py", "import onnxruntime as ort", "'onnxruntime' belongs to importer"),
        ("snnc/report/ledger.py", "import rich.table", "'rich' belongs to cli"),
        ("snnc/pipeline.py", "import click", "'click' belongs to cli"),
        ("snnc/spec.py", "from pickle import loads", "'pickle' is banned"),
        ("snnc/strange.py", "from snnc.ir import Graph", "the room 'strange' is not in the table"),
    ],
)
def test_a_forbidden_import_is_caught(copy: Path, path: str, line: str, caught: str) -> None:
    with (copy / path).open("a") as file:
        file.write(f"\n{line}\n")
    problems = import_problems(copy)
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"{path}:")
    assert caught in problems[0]


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "exec('x = 1')",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "np.load('x')",
        "def f():\n    return torch.load('x')",
    ],
)
def test_a_dangerous_call_is_caught(copy: Path, line: str) -> None:
    with (copy / "snnc/data.py").open("a") as file:
        file.write(f"\n{line}\n")
    problems = call_problems(copy)
    assert len(problems) == 1, problems
    assert problems[0].startswith("snnc/data.py:")


def test_an_unlisted_package_is_caught(copy: Path) -> None:
    (copy / "targets/second").mkdir()
    (copy / "targets/second/__init__.py").write_text("")
    assert package_problems(copy) == ["'snnc.targets.second' is not in pyproject's packages"]
    shutil.rmtree(copy / "targets/second")
    shutil.rmtree(copy / "snnc/report")
    assert package_problems(copy) == ["'snnc.report' is no package folder"]


def test_a_lost_link_is_caught(copy: Path) -> None:
    (copy / "snnc/passes").unlink()
    shutil.copytree(copy / "passes", copy / "snnc/passes")
    (copy / "snnc/targets").unlink()
    (copy / "snnc/targets").symlink_to(copy / "targets")
    assert package_problems(copy) == [
        "snnc/passes is not the link ../passes",
        "snnc/targets is not the link ../targets",
    ]


def test_a_file_without_row_row_without_file_and_missing_test_are_caught(tmp_path: Path) -> None:
    (tmp_path / "passes/deep").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    for name in ("passes/__init__.py", "passes/forgotten.py", "passes/known_one.py", "passes/deep/__init__.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "tests/test_known_one.py").write_text("")
    assert registry_problems(tmp_path, "passes", "tests", {"known-one", "lost"}, {"deep"}) == [
        "'lost' has no file in passes/",
        "passes/forgotten has no row in the registry",
        "tests/test_lost.py is missing",
    ]


def test_a_giant_is_caught(copy: Path) -> None:
    body = "".join(f"    x = {i}\n" for i in range(LONGEST_FUNCTION))
    (copy / "snnc/spec.py").write_text(f"def giant():\n{body}")
    assert (LONGEST_FUNCTION + 1, LONGEST_FUNCTION, "snnc/spec.py:1 giant") in sizes(copy)
    (copy / "snnc/data.py").write_text("x = 1\n" * (LONGEST_FILE + 1))
    assert (LONGEST_FILE + 1, LONGEST_FILE, "snnc/data.py") in sizes(copy)


def test_the_links_are_links_in_git_too() -> None:
    """Mode 120000 in the index, where there is one: a checkout without links would pass the test above by accident."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--stage", "snnc/passes", "snnc/targets"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.findall(r"^120000 \w+ 0\t(.*)$", listed, re.M) == ["snnc/passes", "snnc/targets"]


def test_nothing_stray_is_tracked() -> None:
    """What stands at the top is what belongs there, and nothing is larger than a source or an example may be."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.split("\0") if name and (ROOT / name).exists()]
    folders = {".ci", "benchmarks", "docs", "examples", "passes", "snnc", "targets", "tests"}
    alone = {".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"}
    assert {name.partition("/")[0] for name in files} <= folders | alone
    assert {name: size for name in files if (size := (ROOT / name).stat().st_size) > 2**18} == {}

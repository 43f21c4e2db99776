"""Who may import whom (docs/architecture.md), where JAX is imported, and what starts without JAX or TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import ROOT

LEAVES = {"tasks", "models", "configs", "lra.errors", "lra.signals"}
MAY_IMPORT = {
    "tasks": set(),
    "models": set(),
    "configs": set(),
    "lra.errors": set(),
    "lra.signals": set(),
    "lra.grid": LEAVES,
    "lra.results": LEAVES | {"lra.grid"},
    "lra.train": LEAVES | {"lra.grid", "lra.results"},
    "lra.launch": LEAVES | {"lra.grid", "lra.results"},
    "lra.report": LEAVES | {"lra.grid", "lra.results"},
    "lra.cli": LEAVES | {"lra.grid", "lra.results", "lra.launch", "lra.report"},
    "run": {"lra.cli"},
}
"""Packages from the ground up, and what each may import beside itself."""
KNOW_BY_NAME = {"lra/grid/expand.py", "lra/grid/names.py", "lra/grid/prepared.py", "lra/train/worker.py",
                "lra/train/describe.py", "lra/report/fairness.py", "lra/report/published.py", "lra/report/distance.py",
                "lra/report/mixer_code.py", "lra/report/calibration.py", "lra/report/styles.py",
                "lra/cli/data.py"}  # fmt: skip
"""The only modules of `lra` that know tasks, models or protocols by name."""
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def package_of(name: str) -> str | None:
    """The package of `MAY_IMPORT` that a module is in."""
    parts = name.split(".")
    for package in (".".join(parts[:2]), parts[0]):
        if package in MAY_IMPORT:
            return package
    return None


def files_of(package: str) -> list[Path]:
    path = ROOT / package.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def every_file() -> list[Path]:
    return [file for package in MAY_IMPORT for file in files_of(package)]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_is_below_it(package):
    files = files_of(package)
    assert files
    for file in files:
        packages = {package_of(name) for name in imported(file)} - {None, package}
        assert packages <= MAY_IMPORT[package], f"{file} imports {packages - MAY_IMPORT[package]}"


def test_only_models_and_train_import_jax():
    for file in every_file():
        if file.relative_to(ROOT).parts[0] == "models" or file.is_relative_to(ROOT / "lra" / "train"):
            continue
        assert not {name.partition(".")[0] for name in imported(file)} & JAX, file


def test_only_the_joining_modules_know_tasks_models_and_protocols_by_name():
    registries = {"tasks.TASKS", "models.MIXERS", "configs.PROTOCOLS", "configs.lra"}
    for file in (ROOT / "lra").rglob("*.py"):
        if file.relative_to(ROOT).as_posix() in KNOW_BY_NAME:
            continue
        names = imported(file)
        # These name no model: training knows the form of random keys, what is drawn anew, and which modules are norms.
        unnamed = ("models.core.layers", "models.core.norms", "models.core.redraw")
        known = {n for n in names if package_of(n) == "models" and not n.startswith(unnamed)}
        assert not known - {"models", "models.core"}, file
        assert not names & registries, file


def test_no_module_has_a_name_of_the_standard_library():
    public = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    shadowing = {file.stem for file in every_file() if file.is_relative_to(ROOT / "lra")} & public
    assert not shadowing


def test_no_test_module_is_imported_and_each_stands_with_what_it_tests():
    for file in (ROOT / "tests").rglob("*.py"):
        modules = {part for name in imported(file) if name.startswith("tests") for part in name.split(".")}
        assert not any(module.startswith("test_") for module in modules), file
        folder = file.relative_to(ROOT / "tests").parts[0]
        if file.name.startswith("test_") and folder != file.name:
            assert any((ROOT / place / folder).is_dir() for place in ("lra", "", "tests")), file


def test_absl_flags_stay_where_they_are_defined_and_parsed():
    for file in every_file():
        if "FlagValues" in file.read_text():
            assert file.relative_to(ROOT).as_posix() in (
                "lra/cli/flags.py",
                "lra/cli/data_flags.py",
                "lra/cli/report_flags.py",
                "lra/cli/shared_flags.py",
                "lra/cli/parsing.py",
            )


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_command_line_needs_no_jax_and_no_tensorflow():
    cli = "from lra.cli.main import verbs; verbs(); from lra.report import canvas, figures, write, show"
    loaded = modules_after(f"import run; {cli}")
    assert "lra.launch.scheduler" in loaded and "lra.report.write" in loaded
    assert not loaded & {"jax", "flax", "optax", "tensorflow", "tensorflow_datasets"}


def test_the_tasks_need_no_framework_and_torch_is_imported_where_it_is_asked_for():
    frameworks = {"jax", "torch", "tensorflow", "pyarrow"}
    assert not modules_after("from tasks import load; import tasks.io.export") & frameworks
    for file in every_file():
        if file.relative_to(ROOT).as_posix() != "tasks/torch_examples.py":
            assert "torch" not in {name.partition(".")[0] for name in imported(file)}, file


def test_a_worker_needs_no_tensorflow():
    assert not modules_after("import lra.train.worker") & {"tensorflow", "tensorflow_datasets"}

"""Data flows one way: who may import whom, and what starts without JAX or TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"lra", "models", "tasks", "configs", "run"}
ALLOWED = {"tasks": {"tasks"}, "models": {"models"}, "configs": {"configs", "lra"}}
JOINS = {"lra/grid.py", "lra/cell.py", "lra/probe.py", "lra/fairness.py"}
"""The only modules of `lra` that know tasks and models by name."""


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package):
    for file in (ROOT / package).rglob("*.py"):
        tops = {name.partition(".")[0] for name in imported(file)} & OURS
        assert tops <= ALLOWED[package], f"{file} imports {tops - ALLOWED[package]}"


def test_only_the_joining_modules_know_models_and_tasks():
    for file in (ROOT / "lra").rglob("*.py"):
        if file.relative_to(ROOT).as_posix() in JOINS:
            continue
        names = imported(file)
        # `models.layers` names no model: training takes the form of its random keys from there.
        known = {n for n in names if n.partition(".")[0] == "models" and not n.startswith("models.layers")}
        assert not known, file
        assert "tasks.TASKS" not in names, file


def test_models_and_tasks_do_not_know_configs_nor_train():
    for package in ("tasks", "models"):
        for file in (ROOT / package).rglob("*.py"):
            assert not {n.partition(".")[0] for n in imported(file)} & {"lra", "configs"}, file


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_parent_process_needs_no_jax_and_no_tensorflow():
    ours = "launch grid grids schedule slots cluster on_ray verbs figures efficiency sweep"
    loaded = modules_after(f"import run, tasks.cache; from lra import {ours.replace(' ', ', ')}")
    assert not loaded & {"jax", "flax", "optax", "tensorflow", "tensorflow_datasets"}


def test_a_cell_needs_no_tensorflow():
    assert not modules_after("import lra.cell") & {"tensorflow", "tensorflow_datasets"}

"""The suite's commit: its own, or unknown."""

import dataclasses
import json
import shutil
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest

from lra.results import provenance
from tests.helpers.records import quick_cell

HASH = "a" * 40


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a commit, in which the suite's code is thought to be."""
    if not shutil.which("git"):
        pytest.skip("no git")
    monkeypatch.delenv("LRA_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: None))
    (tmp_path / "vendored").mkdir()
    for name in ("run.py", "vendored/run.py"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_the_repository_s_commit_and_whether_files_differ(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert provenance.commit() == head
    (repository / "new.txt").write_text("untracked")
    assert provenance.commit() == head
    (repository / "run.py").write_text("2")
    assert provenance.commit() == head + "+changes"


def test_a_copy_in_another_repository_does_not_have_its_commit(repository, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", repository / "vendored")
    noted = json.dumps({"vcs_info": {"commit_id": HASH}})
    installed = SimpleNamespace(read_text=lambda file: noted, locate_file=lambda name: repository)
    monkeypatch.setattr(metadata, "distribution", lambda name: installed)
    assert provenance.commit() is None  # and the installed package is another copy


def test_a_hook_s_variables_do_not_name_another_repository(repository, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    git(other, "init")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.commit() == git(repository, "--git-dir", f"{repository}/.git", "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("noted", "commit"),
    [
        (json.dumps({"vcs_info": {"commit_id": HASH}}), HASH),
        (json.dumps({"dir_info": {}}), None),
        (None, None),
        ("{", None),
    ],
)
def test_an_installed_copy_has_the_commit_that_pip_noted(tmp_path, monkeypatch, noted, commit):
    monkeypatch.delenv("LRA_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    installed = SimpleNamespace(read_text=lambda file: noted, locate_file=lambda name: tmp_path)
    monkeypatch.setattr(metadata, "distribution", lambda name: installed)
    assert provenance.commit() == commit


def test_a_record_says_how_many_examples_are_evaluated():
    cell = quick_cell()
    counts = {"train": 9_000, "validation": 2_000, "test": 400}
    train = dataclasses.replace(cell.plan.recipe.train, validation_examples=500, test_examples=500)
    plan = dataclasses.replace(cell.plan, recipe=dataclasses.replace(cell.plan.recipe, train=train))
    made = provenance.initial_record(dataclasses.replace(cell, plan=plan, data=cell.data | {"counts": counts}), {})
    assert made["evaluated"] == {"validation": 500, "test": 400} and made["data"]["counts"] == counts

"""A run that is stopped, killed or damaged resumes from its checkpoint and ends with the same bits."""

import functools
import random
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from lra.train.checkpoint import checksums
from tests.helpers import training
from tests.helpers.training import shared_programs, train, with_train

RECIPE_60 = with_train(steps=60, eval_every=20)
session = functools.partial(training.session, recipe=RECIPE_60)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with shared_programs():
        yield


@pytest.fixture(autouse=True)
def chunks_of_five_steps(monkeypatch):
    """Makes several chunks between validations."""
    monkeypatch.setattr("lra.train.loop.chunk_length", lambda steps_between, flops, backend: 5)


@pytest.fixture(scope="module")
def uninterrupted(compiled_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lra.train.loop.chunk_length", lambda steps_between, flops, backend: 5)
        return train(RECIPE_60, (0, 3)).results


def steps_kept(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


@pytest.mark.parametrize("stops", [[1], [4], [0, 3, 4, 1, 2], [11]])
def test_stopping_and_going_on_changes_no_bit(tmp_path, uninterrupted, stops):
    for count in stops:
        outcome, warnings = session(tmp_path / "c", count)
        assert (outcome.status, outcome.error, warnings) == ("interrupted", "enough", [])
    assert steps_kept(tmp_path / "c")[-1] == 5 * sum(stops)
    outcome, warnings = session(tmp_path / "c")
    assert outcome.results == uninterrupted and outcome.status == "ok" and not warnings
    assert outcome.resumed == len(stops)
    assert sum(steps for steps, _ in outcome.blocks + outcome.first_blocks) == 60


def test_streamed_training_goes_on_too(tmp_path, uninterrupted):
    session(tmp_path / "c", 5, stream="on")
    assert session(tmp_path / "c", stream="on")[0].results == uninterrupted


def test_two_checkpoints_are_kept(tmp_path):
    session(tmp_path / "c", 7)
    assert len(steps_kept(tmp_path / "c")) == 2


def damage_largest(step):
    """Flips one bit of the largest file, which holds an array."""
    file = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_all(step):
    for file in step.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change_numbers(step):
    file = step / "progress" / "metadata"
    text = file.read_text()
    assert '\\"train_loss\\": 1.' in text
    file.write_text(text.replace('\\"train_loss\\": 1.', '\\"train_loss\\": 2.', 1))


def empty(step):
    for part in list(step.iterdir()):
        shutil.rmtree(part) if part.is_dir() else part.unlink()


@pytest.mark.parametrize("damage", [damage_largest, cut_all, change_numbers, empty])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path, uninterrupted, damage):
    session(tmp_path / "c", 9)
    before, newest = steps_kept(tmp_path / "c")
    damage(tmp_path / "c" / str(newest))
    outcome, warnings = session(tmp_path / "c")
    assert outcome.results == uninterrupted and outcome.resumed == 1
    assert len(warnings) == 1 and warnings[0].startswith(f"checkpoint at step {newest} cannot be used")
    assert before < newest


def test_without_a_whole_checkpoint_training_starts_anew(tmp_path, uninterrupted):
    session(tmp_path / "c", 6)
    for step in steps_kept(tmp_path / "c"):
        damage_largest(tmp_path / "c" / str(step))
    outcome, warnings = session(tmp_path / "c")
    assert outcome.results == uninterrupted and outcome.resumed == 0 and len(warnings) == 2


def test_a_checkpoint_of_another_cell_is_not_used(tmp_path, uninterrupted):
    session(tmp_path / "c", 4, key="other")
    outcome, warnings = session(tmp_path / "c")
    assert outcome.results == uninterrupted and outcome.resumed == 0
    assert warnings and all("it belongs to another cell" in line for line in warnings)


def test_a_checkpoint_that_cannot_be_written_does_not_end_training(tmp_path, uninterrupted):
    (tmp_path / "c").write_text("a file where the folder should be")
    outcome, warnings = session(tmp_path / "c")
    assert outcome.results == uninterrupted
    assert warnings and "a checkpoint could not be written" in warnings[0]


def test_what_a_killed_writer_leaves_behind_is_not_mistaken_for_a_checkpoint(tmp_path, uninterrupted):
    """Copies of the newest checkpoint without its last files, under the names that Orbax writes to."""
    session(tmp_path / "c", 4)
    newest = tmp_path / "c" / str(steps_kept(tmp_path / "c")[-1])
    unfinished = tmp_path / "c" / f"{int(newest.name) + 5}.orbax-checkpoint-tmp"
    shutil.copytree(newest, unfinished)
    shutil.rmtree(unfinished / "progress")
    assert session(tmp_path / "c")[0].results == uninterrupted


def test_a_checksum_sees_every_changed_bit_and_swapped_words():
    rng = random.Random(0)
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    before = checksums([jnp.asarray(x)])[0]
    for _ in range(200):
        y = x.copy()
        y.view(np.uint32)[rng.randrange(1000)] ^= np.uint32(1 << rng.randrange(32))
        assert checksums([jnp.asarray(y)])[0] != before
    y = x.copy()
    y[[3, 700]] = y[[700, 3]]
    assert checksums([jnp.asarray(y)])[0] != before
    kinds = [jnp.zeros((3, 2), jnp.bool_), jnp.ones((), jnp.int32), jnp.ones(5, jnp.bfloat16), jnp.zeros((0,))]
    assert checksums(kinds).shape == (4,)

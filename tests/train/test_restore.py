"""Which checkpoint is restored, and what is checked, with a store in memory in the place of Orbax's."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from lra.train.checkpoint import Checkpoints

ARRAYS = {"state": {"w": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(7)}, "best": {"w": jnp.ones((2, 3))}}


class Store:
    """Keeps what is saved, by step."""

    def __init__(self, folder):
        self.folder, self.kept = folder, {}

    def all_steps(self):
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdigit()]

    def save(self, step, args, force):
        (self.folder / str(step)).mkdir()
        arrays = {name: np.array(array) for name, array in args.arrays.item.items()}
        self.kept[step] = SimpleNamespace(arrays=arrays, progress=json.loads(json.dumps(args.progress.item)))

    def restore(self, step, args):
        return self.kept[step]

    def reload(self):
        pass


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 5 and 10, their store, and the warnings."""
    warnings = []
    checkpoints = Checkpoints(tmp_path, "key", 0, warnings.append)
    checkpoints.manager = Store(tmp_path)
    for step in (5, 10):
        checkpoints.save(step, ARRAYS, {"steps": step}, wait=True)
    return checkpoints, checkpoints.manager, warnings


def test_the_newest_checkpoint_comes_back_with_every_array_in_its_place(saved):
    checkpoints, _, warnings = saved
    arrays, progress = checkpoints.restore(ARRAYS)
    assert progress == {"steps": 10} and not warnings
    np.testing.assert_array_equal(arrays["state"]["w"], ARRAYS["state"]["w"])
    np.testing.assert_array_equal(arrays["best"]["w"], ARRAYS["best"]["w"])
    assert arrays["state"]["step"] == 7


def flip_a_bit(kept):
    kept.arrays["best/w"].view(np.uint32)[1, 2] ^= 1


def swap_two_arrays(kept):
    kept.arrays["best/w"], kept.arrays["state/w"] = kept.arrays["state/w"], kept.arrays["best/w"]


def change_a_number(kept):
    kept.progress["progress"] = kept.progress["progress"].replace("10", "20")


def change_the_key(kept):
    kept.progress["key"] = "another"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip_a_bit, "its arrays are damaged"),
        (swap_two_arrays, "its arrays are damaged"),
        (change_a_number, "its numbers are damaged"),
        (change_the_key, "it belongs to another cell"),
    ],
)
def test_a_changed_checkpoint_is_moved_aside_and_the_one_before_is_used(saved, damage, words):
    checkpoints, store, warnings = saved
    damage(store.kept[10])
    assert checkpoints.restore(ARRAYS)[1] == {"steps": 5}
    assert warnings == [f"checkpoint at step 10 cannot be used and is left out: {words}"]
    assert store.all_steps() == [5] and len(list(checkpoints.folder.glob("damaged-10-*"))) == 1


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: out of memory"), OSError(24, "Too many open files")],
    ids=lambda error: type(error).__name__,
)
def test_a_checkpoint_that_does_not_fit_now_is_kept_for_a_later_run(saved, monkeypatch, error):
    checkpoints, store, warnings = saved

    def fail(step, args):
        raise error

    monkeypatch.setattr(store, "restore", fail)
    with pytest.raises(type(error)):
        checkpoints.restore(ARRAYS)
    assert sorted(store.all_steps()) == [5, 10] and not warnings


def test_training_on_from_other_code_s_checkpoint_is_told(tmp_path):
    tree, told = {"x": jnp.arange(3.0)}, []
    for code in ({"fingerprint": "a"}, {"fingerprint": "a"}, {"fingerprint": "b"}):
        checkpoints = Checkpoints(tmp_path, "key", 0, told.append, code)
        restored = checkpoints.restore(tree)
        checkpoints.save(4, tree, {}, wait=True)
        checkpoints.close()
    assert restored is not None and told == ["the steps up to 4 were trained by other code of the mixer"]

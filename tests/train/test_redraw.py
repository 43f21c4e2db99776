"""What mixers draw anew while they train: when, from what, and with which draws they are evaluated."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lra.grid.spec import TrainOptions
from lra.train.checkpoint import Checkpoints
from lra.train.loop import Hooks, fit
from lra.train.step import Program, replaced
from models.approximate.performer import Performer
from models.core.encoder import Encoder
from models.core.factory import mixer_factory
from models.core.layers import Constant
from models.core.redraw import Redrawn, redrawn
from tests.helpers.training import RECIPE, DeviceData, first_token_splits, shared_programs, with_train

EVERY, STEPS = 3, 7
SHORT = with_train(steps=STEPS, eval_every=STEPS)


class Foreign(nnx.Module):
    """A mixer from elsewhere that scales channels by noise, two layers deep in a wrapper."""

    def __init__(self, dim, length, *, rngs):
        self.inner = Noise(dim, rngs)

    def __call__(self, x, mask, rngs=None):
        return self.inner(x)


class Noise(nnx.Module):
    redraw_every = 2

    def __init__(self, dim, rngs):
        self.noise = Redrawn(jax.random.normal(rngs.params(), (dim,)))
        self.fixed = Constant(jax.random.normal(rngs.params(), (dim,)))

    def redraw(self, key):
        self.noise[...] = jax.random.normal(key, self.noise.shape)

    def __call__(self, x):
        return x * (self.noise[...] + self.fixed[...])[None, None]


def model(seed=0, mixer="performer", layers=2):
    if mixer == "performer":
        make = mixer_factory("performer", {"features": 6, "redraw": EVERY}, heads=2, qkv=16, layers=layers)
    else:
        make = lambda layer, dim, length, rngs: mixer(dim, length, rngs=rngs)  # noqa: E731
    return Encoder(
        make, vocab=5, classes=4, length=8, dim=16, layers=layers, mlp=32, rate=0.1, rngs=nnx.Rngs(seed)
    )  # fmt: skip


def program_of(seeds=(3,), recipe=SHORT, mixer="performer"):
    program = Program([model(seed, mixer) for seed in seeds], recipe, 512, 1, seeds, jax.devices()[:1])
    return program, DeviceData(first_token_splits(), program.sharding).data["train"]


def run(program, examples, lengths):
    """The states after chunks of these lengths."""
    state, states = program.init(), []
    with shared_programs():
        for length in lengths:
            chunk = program.compile_chunk(state, examples, length)
            state, _ = chunk(state, program.fixed, examples)
            states.append(jax.device_get(state))
    return states


def draws(state):
    """The redrawn arrays of a state, one after the other."""
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.moving)])


@pytest.fixture(scope="module")
def one_by_one():
    return run(*program_of(), [1] * STEPS)


def test_the_draws_change_at_every_third_step_only(one_by_one):
    program, _ = program_of()
    before = [draws(program.init()), *(draws(state) for state in one_by_one)]
    # The steps are numbered from 0; that of number 3 is the first to draw.
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(before)]
    assert changed == [number in (3, 6) for number in range(STEPS)]
    layers = [np.asarray(leaf) for leaf in jax.tree.leaves(one_by_one[-1].moving)]
    assert len(layers) == 2 and not np.array_equal(*layers)


@pytest.mark.parametrize("lengths", [[5, 2], [7]])
def test_the_length_of_chunks_changes_no_bit(one_by_one, lengths):
    (*_, state) = run(*program_of(), lengths)
    jax.tree.map(np.testing.assert_array_equal, state, one_by_one[-1])


def test_draws_depend_on_seed_and_step_alone(one_by_one):
    """Not on the seeds beside, on what the batch is cut into, or on the parameters."""
    other_rate = dataclasses.replace(SHORT, optimizer=dataclasses.replace(SHORT.optimizer, learning_rate=0.1))
    in_parts = with_train(steps=STEPS, eval_every=STEPS, accumulate=2)
    for program in (program_of(recipe=in_parts), program_of(recipe=other_rate)):
        np.testing.assert_array_equal(draws(run(*program, [7])[-1]), draws(one_by_one[-1]))
    together = run(*program_of(seeds=(8, 3)), [7])[-1]
    first, second = (jax.tree.map(lambda x, s=s: x[s : s + 1], together.moving) for s in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, second, one_by_one[-1].moving)
    assert not np.array_equal(jax.tree.leaves(first)[0], jax.tree.leaves(second)[0])


def test_a_mixer_from_elsewhere_redraws_however_deep_it_is():
    program, examples = program_of(mixer=Foreign)
    states = run(program, examples, [1] * 4)
    seen = [draws(program.init()), *map(draws, states)]
    assert [not np.array_equal(a, b) for a, b in itertools.pairwise(seen)] == [False, False, True, False]
    # What is not `Redrawn` stays, and the noise follows its own law: that of the function it calls.
    other = replaced(program.other_state, states[-1].moving)
    assert len(jax.tree.leaves(other)) == len(jax.tree.leaves(program.other_state)) == 4
    key = jax.random.fold_in(jax.random.key(1), 0)
    alone = Foreign(16, 8, rngs=nnx.Rngs(0))
    new = redrawn(alone, jax.random.key(1), jnp.int32(4))
    np.testing.assert_array_equal(jax.tree.leaves(new)[0], jax.random.normal(key, (16,)))
    np.testing.assert_array_equal(alone.inner.noise[...], jax.random.normal(key, (16,)))


def test_a_mixer_that_redraws_nothing_is_told():
    mixer = Performer(16, 8, redraw=4, rngs=nnx.Rngs(0))
    mixer.directions = Constant(mixer.directions[...])
    with pytest.raises(ValueError, match="Performer has redraw_every, but no variable that is Redrawn"):
        redrawn(mixer, jax.random.key(0), jnp.int32(4))


def test_a_model_that_redraws_nothing_carries_nothing():
    for mixer in ("fnet", "performer"):
        options = {"redraw": 0} if mixer == "performer" else {}
        make = mixer_factory(mixer, options, heads=2)
        module = Encoder(
            make, vocab=5, classes=4, length=8, dim=16, layers=1, mlp=32, rngs=nnx.Rngs(0)
        )  # fmt: skip
        program = Program([module], RECIPE, 512, 1, [0], jax.devices()[:1])
        assert not jax.tree.leaves(program.init().moving)


class Kept:
    """Stands for `Checkpoints`: keeps what is saved."""

    def due(self):
        return True

    def restore(self, like):
        return None

    def save(self, step, arrays, progress, wait=False):
        self.arrays = jax.device_get(arrays)


def test_resumption_changes_no_bit_and_evaluation_takes_the_draws_of_its_step(tmp_path):
    recipe, splits, seeds = with_train(steps=10, eval_every=5), first_token_splits(), (0, 3)

    def train(checkpoints, chunks=None):
        calls = iter(range(100))
        stop = lambda: "enough" if chunks is not None and next(calls) >= chunks else ""  # noqa: E731
        hooks = Hooks(checkpoints=checkpoints, stop=stop)
        return fit([model(seed) for seed in seeds], splits, recipe, seeds, TrainOptions(), hooks)

    kept = Kept()
    with shared_programs():
        whole = train(kept)
        for chunks in (1, None):
            checkpoints = Checkpoints(tmp_path, "key", 0, pytest.fail)
            parts = train(checkpoints, chunks)
            checkpoints.close()
    assert parts.resumed == 1 and repr(parts.results) == repr(whole.results)

    graph, _, _ = nnx.split(model(), nnx.Param, ...)
    examples = splits.splits["validation"]
    rows = examples.index[:, 0]
    mask = np.arange(8) < splits.lengths[rows][:, None]
    tokens = np.where(mask, splits.values[rows].astype(np.int32) + 1, 0)

    def loss(params, other_state):
        logits = nnx.merge(graph, *(jax.tree.map(lambda x: x[1], t) for t in (params, other_state)))(
            tokens[:, None], mask[:, None]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(examples.labels, jnp.int32)).mean()

    state, first = kept.arrays["state"], kept.arrays["rest"]
    now = replaced(first, state["moving"])
    told = whole.results[1].curve[-1]["validation_loss"]
    np.testing.assert_allclose(loss(state["params"], now), told, rtol=1e-5)
    assert abs(loss(state["params"], first) / told - 1) > 1e-4

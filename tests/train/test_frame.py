"""Training with batch norm's running statistics, and with groups of parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import PROTOCOLS
from configs.recipe import Optimizer, Schedule
from lra.train import groups
from lra.train.benchmark import random_splits
from lra.train.data import DeviceData
from lra.train.optimizer import make_optimizer
from lra.train.step import Program
from lra.train.worker import build
from tasks import TASKS
from tests.helpers import training
from tests.helpers.mixing import jit
from tests.helpers.training import RECIPE, first_token_splits, program_of, shared_programs, with_train


def batch_norm(**train):
    recipe = with_train(**({"steps": 12, "eval_every": 4} | train))
    return dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, norm="batch", layers=2))


def test_resumption_of_stacked_seeds_changes_no_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.train.loop.chunk_length", lambda *_: 2)
    session = functools.partial(training.session, recipe=batch_norm(), seeds=(0, 5))
    with shared_programs():
        whole, _ = session(None)
        assert session(tmp_path / "c", 3)[0].status == "interrupted"
        parts, warnings = session(tmp_path / "c")
    assert parts.resumed == 1 and not warnings and repr(parts.results) == repr(whole.results)


def moving_after(recipe, seeds=(3,), steps=4):
    program, source = program_of(recipe, seeds)
    state, metrics = jax.jit(program.chunk, static_argnames="steps")(
        program.init(), program.fixed, source.data["train"], steps=steps
    )
    return state, metrics, program, source


def test_seeds_together_have_the_statistics_of_each_alone():
    together, losses, _, _ = moving_after(batch_norm(), (3, 4))
    alone, loss, _, _ = moving_after(batch_norm(), (4,))
    assert jax.tree.leaves(alone.moving)
    for a, b in zip(jax.tree.leaves(together.moving), jax.tree.leaves(alone.moving), strict=True):
        np.testing.assert_allclose(a[1], b[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses[0][:, 1], loss[0][:, 0], rtol=1e-4)


def test_recomputed_blocks_have_the_same_statistics():
    stored, losses, _, _ = moving_after(batch_norm())
    recomputed, again, _, _ = moving_after(batch_norm(remat=True))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), recomputed.moving, stored.moving)
    np.testing.assert_allclose(again[0], losses[0], rtol=1e-5)


def test_parts_of_a_batch_leave_the_mean_of_their_statistics():
    """After one step from the same parameters: the norm of the first block has seen the embedding alone."""
    moved = {}
    for parts in (1, 4):
        state, _, _, _ = moving_after(batch_norm(accumulate=parts, batch=32), steps=1)
        moved[parts] = state.moving["blocks"][0]["norm_mixer"]
    # Without dropout of the input the mean over parts of near equal size is near the whole batch's.
    np.testing.assert_allclose(moved[4]["mean"][...], moved[1]["mean"][...], atol=0.02)
    assert np.abs(np.asarray(moved[1]["mean"][...])).max() > 0.03


def test_evaluation_takes_the_running_statistics_and_leaves_them():
    state, _, program, source = moving_after(batch_norm(), steps=8)
    evaluate = lambda moving: program.evaluate(  # noqa: E731
        state.params,
        nnx.merge_state(program.other_state, moving),
        source.data["validation"],
        jnp.int32(0),
        jnp.int32(101),
        32,
    )[0]
    first = evaluate(state.moving)
    np.testing.assert_array_equal(first, evaluate(state.moving))
    assert abs(first[0] / evaluate(program.moving)[0] - 1) > 1e-3


class Recurrence(nnx.Module):
    """Parameters of each kind."""

    def __init__(self, dim, length, *, rngs):
        self.decay = nnx.Param(jnp.full((dim,), 0.1234567), role="A")
        self.into = nnx.Param(jnp.ones((dim,)), role="B")
        self.own = nnx.Param(jnp.ones((dim,)), role="own")
        self.linear = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, x, mask, rngs=None):
        assert self.decay.dtype == self.own.dtype == jnp.float32
        gate = (self.decay[...] * self.into[...] * self.own[...])[None, None]
        return self.linear(x) * gate.astype(x.dtype)


FOREIGN = f"{__name__}:Recurrence"


def test_parameters_have_the_roles_that_the_mixer_or_their_place_gives_them():
    model = training.encoder(FOREIGN)
    found = dict(
        zip([path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))], groups.roles(model), strict=True)
    )
    at = lambda *path: found[path]  # noqa: E731
    mixer = ("blocks", 0, "mixer")
    assert [at(*mixer, name) for name in ("decay", "into", "own")] == ["A", "B", "own"]
    assert [at(*mixer, "linear", name) for name in ("kernel", "bias")] == ["weight", "bias"]
    assert at("blocks", 0, "norm_mixer", "bias") == at("norm", "scale") == "norm"
    assert at("embedding", "embedding") == "embedding" and at("cls") == "weight"


def test_each_group_follows_adam_at_its_own_rate_and_decay():
    """Against Adam (Kingma & Ba 2015, algorithm 1) with decoupled weight decay, written out."""
    rate, b1, b2, eps, decay, slow = 0.05, 0.9, 0.98, 1e-8, 0.1, 0.25
    optimizer = Optimizer(rate, decay, b1, b2, eps, slow="A,own", slow_factor=slow, undecayed="A,bias")
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, schedule=Schedule("constant", warmup=0))
    roles = ["A", "B", "own", "bias", "weight"]
    update = make_optimizer(recipe, roles)
    start = np.array([1.0, -2.0, 0.5, 3.0, -1.0])
    params = [jnp.array([p]) for p in start]
    state, x, m, v = update.init(params), start.copy(), np.zeros(5), np.zeros(5)
    scale, decays = np.array([slow, 1, slow, 1, 1]), np.array([0, 1, 1, 0, 1])
    for t in range(1, 6):
        updates, state = update.update([2 * (p - 0.3) for p in params], state, params)
        params = jax.tree.map(jnp.add, params, updates)
        g = 2 * (x - 0.3)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - scale * rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * decays * x)
    np.testing.assert_allclose(np.concatenate(params), x, rtol=2e-5)


def test_a_recurrence_s_parameters_train_in_float32_where_others_are_bfloat16():
    recipe = with_train(steps=4, eval_every=4, precision="bfloat16")
    outcome = training.train(recipe, (0,), FOREIGN)
    assert outcome.status == "ok"


@pytest.mark.parametrize("field", ["slow", "undecayed"])
def test_groups_reach_training(field):
    """The parameters with the role move otherwise, all others as before, after one step."""
    changes = {"slow": {"slow": "own", "slow_factor": 0.0}, "undecayed": {"undecayed": "own", "weight_decay": 0.5}}
    base = dataclasses.replace(RECIPE.optimizer, weight_decay=0.5, undecayed="")

    def after(**change):
        recipe = dataclasses.replace(
            RECIPE, optimizer=dataclasses.replace(base, **change), schedule=Schedule("constant", 0)
        )
        program = Program([training.encoder(FOREIGN)], recipe, 512, 1, [0], jax.devices()[:1])
        source = DeviceData(first_token_splits(), program.sharding)
        state, _ = jax.jit(program.chunk, static_argnames="steps")(
            program.init(), program.fixed, source.data["train"], steps=1
        )
        return {path: np.asarray(v[...]) for path, v in nnx.to_flat_state(state.params)}

    plain, changed = after(), after(**changes[field])
    moved = {path for path in plain if not np.array_equal(plain[path], changed[path])}
    assert moved == {("blocks", 0, "mixer", "own")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("listops", "s5"),
        ("image", "s4d"),
        ("retrieval", "lru"),
        ("pathx", "s5"),
        ("listops", "mega"),
        ("pathfinder", "mega_chunk"),
        ("pathx", "sgconv"),
        ("listops", "hgrn"),
    ],
)
def test_published_recipes_take_ten_steps(task, model):
    """At their own width, depth and batch norm; with few and short documents, so that it takes seconds."""
    known, recipe = TASKS[task], PROTOCOLS["ssm"].recipe(task, model)
    train = dataclasses.replace(recipe.train, batch=2, precision="float32")
    recipe = dataclasses.replace(recipe, train=train)
    dataset = random_splits(known.vocab, known.classes, known.pair, 32, 8)
    model = build(model, recipe, known.vocab, known.classes, known.pair, 32, 0, bool(known.shape))
    program = Program([model], recipe, 8, 1 + known.pair, [0], jax.devices()[:1])
    data = DeviceData(dataset, program.sharding).data["train"]
    before = program.init()
    after, (losses, _) = jit(program.chunk, static_argnames="steps")(before, program.fixed, data, steps=10)
    assert np.isfinite(losses).all()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert np.mean(jax.tree.leaves(moved)) > 0.9
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.moving)))

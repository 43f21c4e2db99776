"""What a user's mixer may bring: complex parameters, dropout layers with keys of their own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, nnx

from configs.recipe import Optimizer, Schedule
from lra.train.checkpoint import checksums
from lra.train.data import Batch
from lra.train.optimizer import count_parameters, make_optimizer
from lra.train.step import Program
from models.core.layers import BatchRngs
from tests.helpers import training
from tests.helpers.foreign_mixers import Drops
from tests.helpers.training import RECIPE, train, with_train

POLES, DROPS = "tests.helpers.foreign_mixers:Poles", "tests.helpers.foreign_mixers:Drops"


def test_adam_takes_a_complex_parameter_as_two_real_ones():
    """Against Adam (Kingma & Ba 2015, algorithm 1) with decoupled weight decay, for |z − w|² as x and y."""
    rate, b1, b2, eps, decay = 0.05, 0.9, 0.98, 1e-8, 0.01
    recipe = dataclasses.replace(
        RECIPE, optimizer=Optimizer(rate, decay, b1, b2, eps), schedule=Schedule("constant", warmup=0)
    )
    optimizer, target = make_optimizer(recipe), np.array([1 + 2j, -3 + 0.5j], np.complex64)
    z = {"z": jnp.array([0.5 - 1j, 0.2 + 0.1j], jnp.complex64), "r": jnp.array([4.0])}
    loss = lambda z: jnp.sum(jnp.abs(z["z"] - target) ** 2) + z["r"][0] ** 2  # noqa: E731
    state = optimizer.init(z)
    x = np.array([0.5, -1.0, 0.2, 0.1, 4.0])
    m, v, wanted = np.zeros(5), np.zeros(5), np.array([1, 2, -3, 0.5, 0])
    for t in range(1, 8):
        updates, state = optimizer.update(jax.grad(loss)(z), state, z)
        z = jax.tree.map(jnp.add, z, updates)
        g = 2 * (x - wanted)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)
    got = np.concatenate([np.asarray(z["z"]).view(np.float32), z["r"]])
    np.testing.assert_allclose(got, x, rtol=2e-5)
    assert count_parameters(z) == 5


def test_complex_parameters_train_and_go_on_from_a_checkpoint_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.train.loop.chunk_length", lambda *_: 2)
    recipe = with_train(steps=6, eval_every=6)
    whole = train(recipe, (0,), POLES)
    session = functools.partial(training.session, tmp_path / "c", recipe=recipe, seeds=(0,), model=POLES)
    assert session(1)[0].status == "interrupted"
    outcome, warnings = session()
    assert outcome.results == whole.results and outcome.resumed == 1 and not warnings


def test_checksums_of_every_kind_of_array_see_a_changed_bit():
    kinds = ["complex64", "float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint32", "bool", "int4"]
    for kind in kinds:
        x, y = (jnp.asarray(np.arange(6) == place).astype(kind) for place in (3, 4))
        assert len({int(checksums([z])[0]) for z in (x, y, jnp.zeros_like(x))}) == 3, kind
    one, other = jnp.array([1 + 2j], jnp.complex64), jnp.array([1 + 3j], jnp.complex64)
    assert checksums([one])[0] != checksums([other])[0]


def test_checksums_of_64_bits():
    with jax.enable_x64(True):
        for kind in ("float64", "int64", "complex128"):
            x, y = (jnp.asarray(np.array([0, value, 0]), kind) for value in (1, 2))
            assert x.dtype == kind and checksums([x])[0] != checksums([y])[0]


def draws(seed=None, first=0, batch=8):
    """What `Drops` gives at each place, 0 to 22, as the encoder would call it within a step."""
    model = training.encoder(DROPS)
    program = Program([model], RECIPE, 512, 1, [0], jax.devices()[:1])
    program.graph, params, rest = nnx.split(Drops(16, 9, rngs=nnx.Rngs(0)), nnx.Param, ...)
    tokens = Batch(jnp.zeros((batch, 1, 9), jnp.uint8), jnp.full((batch, 1), 9), jnp.zeros(batch, jnp.int32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lra.train.step.tokens_of", lambda batch: (jnp.ones((batch.labels.shape[0], 9, 16)), None))
        rngs = lambda: None if seed is None else BatchRngs(jax.random.key(seed), first)  # noqa: E731
        return np.asarray(jax.jit(lambda: program.forward(params, rest, tokens, rngs())[0])())


def test_stored_dropout_draws_anew_in_every_step_layer_and_part_and_is_off_in_evaluation():
    drawn = [draws(0), draws(1), draws(0, first=8)]
    np.testing.assert_array_equal(drawn[0], draws(0))
    for one in drawn:
        values, counts = np.unique(one, return_counts=True)
        assert values.tolist() == [0, 2, 20, 22]  # the two layers draw independently
        assert (np.abs(counts / one.size - 0.25) < 0.05).all()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs((drawn[one] == drawn[other]).mean() - 0.25) < 0.05
    assert (draws() == 11).all()


def test_training_with_stored_dropout_is_the_same_in_chunks_of_any_length(monkeypatch):
    recipe, results = with_train(steps=6, eval_every=6), []
    for length in (1, 3):
        monkeypatch.setattr("lra.train.loop.chunk_length", lambda *_, length=length: length)
        results.append(train(recipe, (0,), DROPS).results)
    assert results[0] == results[1]


def test_running_statistics_are_kept():
    """After n steps, Flax's running mean is the sum of 0.01 · 0.99^(n − i) times the batch's mean of step i."""
    program, source = training.program_of(model="tests.helpers.foreign_mixers:Averages")
    chunk = jax.jit(program.chunk, static_argnames="steps")
    states = [chunk(program.init(), program.fixed, source.data["train"], steps=n)[0] for n in (1, 2)]
    one, two = (np.asarray(jax.tree.leaves(state.moving)[0]) for state in states)
    assert np.abs(one).max() > 1e-4 and np.abs(two - 0.99 * one).max() > 1e-4
    np.testing.assert_allclose(two - 0.99 * one, one, atol=0.5 * np.abs(one).max())


def test_other_variables_that_a_mixer_changes_are_refused_rather_than_lost():
    with pytest.raises(errors.TraceContextError):
        train(with_train(steps=1, eval_every=1), (0,), "tests.helpers.foreign_mixers:Counts")

"""A step of a model of four weights against a gradient written out: means over parts and devices, draws; programs."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs.recipe import Optimizer
from lra.train.data import Batch, SplitArrays
from lra.train.step import Program
from models.core.layers import batch_bits
from tests.helpers import training
from tests.helpers.mixing import jit
from tests.helpers.training import with_train

BATCH, CLASSES = 16, 4


class Weighted(nnx.Module):
    """Logits: weights times the sum over an example's documents of its first token, or of a draw for each class."""

    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.array([0.3, -0.2, 0.5, 0.1]))

    def __call__(self, tokens: jax.Array, mask: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        documents = tokens.shape[0] * tokens.shape[1]
        scale = tokens[..., :1].astype(jnp.float32)
        if rngs is not None:
            drawn = batch_bits(rngs, (documents, CLASSES)).astype(jnp.float32) / 2.0**32
            scale = scale * drawn.reshape(*tokens.shape[:2], CLASSES)
        return (self.weight[...][None, None] * scale).sum(1)


def program_of(seeds=(3,), documents=1, parts=1, rate=1.0):
    """A program whose optimizer is plain gradient descent, which shows the gradient's scale as Adam does not."""
    recipe = dataclasses.replace(with_train(batch=BATCH, accumulate=parts), optimizer=Optimizer(0.0))
    program = Program([Weighted() for _ in seeds], recipe, 64, documents, seeds, jax.devices()[:1])
    program.optimizer = optax.sgd(rate)
    return program


def batch_of(documents=1):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (BATCH, documents, 3)).astype(np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return Batch(*map(jnp.asarray, (values, np.full((BATCH, documents), 3, np.int32), labels)))


def one_step(program, batch, seed=3, number=7, devices=1):
    """The change of the weights, the loss and the accuracy of one step whose batch some devices share."""
    params, rest = (jax.tree.map(lambda x: x[0], tree) for tree in (program.params, program.other_state))

    def step(batch):
        after, _, metrics, _ = program.step(
            params, program.optimizer.init(params), rest, jnp.uint32(seed), jnp.int32(number), batch
        )
        return jax.tree.leaves(after)[0] - jax.tree.leaves(params)[0], metrics

    if devices == 1:
        return jit(step)(batch)
    program.mesh = SimpleNamespace(size=devices)
    shares = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    return jax.tree.map(lambda x: x[0], jit(jax.vmap(step, axis_name="batch"))(shares))


def test_a_step_follows_the_mean_gradient_of_its_batch(monkeypatch):
    """Without draws: ∂/∂w_c of the mean cross-entropy is the mean of (p_c − [label = c]) · scale."""
    program, batch = program_of(documents=2, parts=4), batch_of(documents=2)
    forward = program.forward
    monkeypatch.setattr(program, "forward", lambda params, rest, batch, rngs: forward(params, rest, batch, None))
    change, (loss, accuracy) = one_step(program, batch)
    weights, labels = np.array([0.3, -0.2, 0.5, 0.1]), np.asarray(batch.labels)
    scale = (np.asarray(batch.values)[:, :, 0].astype(float) + 1).sum(1, keepdims=True)
    p = np.exp(weights * scale)
    p /= p.sum(1, keepdims=True)
    expected = ((p - np.eye(CLASSES)[labels]) * scale).mean(0)
    np.testing.assert_allclose(-change, expected, rtol=1e-4, atol=1e-5)
    assert float(loss) == pytest.approx(-np.log(p[np.arange(BATCH), labels]).mean(), rel=1e-5)
    assert float(accuracy) == pytest.approx((p.argmax(1) == labels).mean())


def test_parts_and_devices_change_neither_gradient_nor_draws():
    batch = batch_of(documents=2)
    whole = one_step(program_of(documents=2), batch)
    assert float(jnp.abs(whole[0]).max()) > 0.01
    shared = one_step(program_of(documents=2, parts=2), batch, devices=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), shared, whole)


def test_each_step_and_each_seed_draws_anew():
    program, batch = program_of(), batch_of()
    params, rest = (jax.tree.map(lambda x: x[0], tree) for tree in (program.params, program.other_state))

    def loss(seed, number):
        return program.step(params, program.optimizer.init(params), rest, seed, number, batch)[2][0]

    compiled = jit(loss)
    losses = {float(compiled(jnp.uint32(s), jnp.int32(n))) for s, n in itertools.product(range(3), range(3))}
    assert len(losses) == 9


def test_seeds_together_meet_the_examples_and_draws_of_each_alone():
    """Equal weights that stay as they are: only order and draws tell the seeds apart."""
    rng = np.random.default_rng(1)
    values, lengths = rng.integers(0, 5, (64, 3)).astype(np.uint8), np.full(64, 3, np.int32)
    labels, rows = rng.integers(0, CLASSES, 64).astype(np.int32), np.arange(64, dtype=np.int32)[:, None]

    source = SplitArrays(*map(jnp.asarray, (values, lengths, rows, labels)))

    def losses(*groups):
        program = program_of(groups[0], rate=0.0)
        chunk = jit(program.chunk, static_argnames="steps")
        fixed = [program.fixed._replace(seeds=jnp.array(seeds, jnp.uint32)) for seeds in groups]
        return np.concatenate([chunk(program.init(), f, source, steps=3)[1][0] for f in fixed], axis=1)

    together, alone = losses((4, 9)), losses((4,), (9,))
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(np.unique(alone.round(5))) == 6


def test_another_seed_is_the_same_program():
    """So that a grid compiles once for all seeds of a model."""

    def text(seeds):
        program, source = training.program_of(seeds=seeds, model="fnet")
        chunk = jax.jit(program.chunk, static_argnames="steps")
        return chunk.lower(program.init(), program.fixed, source.data["train"], steps=2).as_text()

    assert text((3,)) == text((4,)) and text((1, 2)) == text((7, 0))

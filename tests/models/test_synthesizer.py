import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.layers import Constant
from tests.helpers.mixing import (
    HEADS,
    assert_equals,
    assert_limit,
    attention,
    build,
    error,
    inputs,
    jit,
    padding_changes,
    parameter_count,
    run,
)


def heads(x):
    return x.reshape(*x.shape[:-1], HEADS, -1).swapaxes(1, 2)


def naive_dense(dense, x):
    hidden = heads(jax.nn.relu(x @ dense.into.kernel[...] + dense.into.bias[...]))
    return hidden @ dense.out[...] + dense.bias[...][:, None]


def naive_scores(mixer, kind, x):
    length = x.shape[1]
    if kind in ("random", "fixed"):
        return getattr(mixer, kind)[...][None]
    if kind == "factorised_random":
        return (mixer.rows[...] @ mixer.columns[...].swapaxes(-1, -2))[None]
    if kind == "dense":
        return naive_dense(mixer.dense, x)
    if kind == "factorised_dense":
        a, b = naive_dense(mixer.dense_a, x), naive_dense(mixer.dense_b, x)
        assert a.shape[-1] * b.shape[-1] >= length
        j = np.arange(length)
        return a[..., j % a.shape[-1]] * b[..., j // a.shape[-1]]
    q, k = heads(x @ mixer.query.kernel[...]), heads(x @ mixer.key.kernel[...])
    return q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])


def naive(mixer, x, mask):
    scores = [naive_scores(mixer, kind, x) for kind in mixer.kinds]
    alpha = jax.nn.softmax(mixer.alpha[...]) if mixer.alpha is not None else [1.0]
    total = sum(a * s for a, s in zip(alpha, scores, strict=True))
    weights = jax.nn.softmax(jnp.where(mask[:, None, None, :], total, -jnp.inf))
    y = weights @ heads(x @ mixer.value.kernel[...])
    return y.swapaxes(1, 2).reshape(x.shape) @ mixer.out.kernel[...]


@pytest.mark.parametrize("kind", ["random", "dense+factorised_random", "fixed+factorised_dense+dot"])
def test_equals_its_equation(kind):
    x, mask = inputs()
    mixer = build("synthesizer", kind=kind, rank=3)
    if mixer.alpha is not None:
        mixer.alpha[...] = jnp.arange(len(mixer.kinds), dtype=jnp.float32) / 2.0
    assert_equals(mixer, naive, x, mask)


def test_dot_alone_is_attention():
    x, mask = inputs()

    def limit(mixer, x, mask):
        y = attention(*(heads(x @ m.kernel[...]) for m in (mixer.query, mixer.key, mixer.value)), mask)
        return y.swapaxes(1, 2).reshape(x.shape) @ mixer.out.kernel[...]

    assert_limit(build("synthesizer", kind="dot"), limit, x, mask)


def test_fixed_is_not_trained_and_dropout_is_unbiased():
    x, mask = inputs()
    mixer = build("synthesizer", kind="fixed", dropout=0.5)
    assert len(jax.tree.leaves(nnx.state(mixer, nnx.Param))) == 2
    assert len(jax.tree.leaves(nnx.state(mixer, Constant))) == 1
    dropped = jit(lambda key: mixer(x, mask, nnx.Rngs(dropout=key)))
    many = np.stack([dropped(jax.random.key(seed)) for seed in range(64)])
    exact = run(mixer, x, mask)
    assert error(many[0], exact) > 0.1
    assert error(many.mean(0), exact) < 0.4 * error(many[0], exact)


def test_parameters_and_options():
    base = 3_487_490 - 4 * 2 * 256**2  # no queries and keys
    assert parameter_count("synthesizer") == base + 4 * 4 * 1001**2 == 18_995_218
    assert parameter_count("synthesizer", kind="random+dot") == 3_487_490 + 4 * (4 * 1001**2 + 2)
    assert parameter_count("synthesizer", kind="factorised_random") == base + 4 * 4 * 2 * 8 * 1001
    assert parameter_count("synthesizer", kind="factorised_dense") < 1.1 * 3_487_490
    for wrong in ("", "random+random", "vanilla"):
        with pytest.raises(ValueError, match="kind must be"):
            build("synthesizer", kind=wrong)
    with pytest.raises(ValueError, match="rank must be"):
        build("synthesizer", rank=0)


def test_padding_changes_nothing():
    assert padding_changes("synthesizer", kind="random") < 1e-5
    assert padding_changes("synthesizer", kind="factorised_random+dense+factorised_dense") < 1e-5

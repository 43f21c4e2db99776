import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.layers import split_heads
from models.recurrent.retnet import RetNet, retention
from tests.helpers.mixing import (
    array,
    assert_equals,
    build,
    error,
    inputs,
    jit,
    normal,
    padding_changes,
    parameter_count,
    permissively,
    run,
)  # fmt: skip
from tests.helpers.recurrences import zeroed


def scores(q, k, v, distance, elapsed, detach, xp):
    """The parallel form: o [B, L, H, V] from q, k [B, L, H, K] and the distance [L, L] of queries to keys before them.

    A key of negative distance is not seen; `elapsed` [B, L] is how many positions come before a query.
    """
    heads, half = q.shape[2], q.shape[3] // 2
    theta = 10_000.0 ** -np.linspace(0, 1, half)
    turn = xp.exp(1j * xp.asarray(distance[..., None] * theta))
    q, k = (x[..., :half] + 1j * x[..., half:] for x in (q, k))
    a = xp.einsum("bnhi,bmhi,nmi->bhnm", q, xp.conj(k), turn).real / np.sqrt(2 * half)
    gamma = 1 - 2.0 ** (-5 - np.arange(heads))
    a = a * xp.asarray(np.where(distance >= 0, gamma[:, None, None] ** np.maximum(distance, 0), 0))
    total = (1 - gamma[:, None] ** (elapsed[:, None, :] + 1)) / (1 - gamma[:, None])
    a = a / xp.sqrt(total)[..., None]
    a = a / xp.maximum(1, abs(detach(a.sum(-1, keepdims=True))))
    return xp.einsum("bhnm,bmhv->bnhv", a, v)


def naive(mixer, x, mask, xp=jnp):
    """Section 2 of the paper, both ways by the distances of positions; nothing is reversed."""
    layers = (mixer.query, mixer.key, mixer.value, mixer.gate, mixer.out)
    query, key, value, gate, out = (array(layer.kernel, xp) for layer in layers)
    u = zeroed(x, mask, xp)
    q, k, v = (split_heads(u @ kernel, mixer.heads) for kernel in (query, key, value))
    at, detach = np.arange(x.shape[1]), jax.lax.stop_gradient if xp is jnp else (lambda x: x)
    distance, last = at[:, None] - at, xp.max(xp.where(mask, at, 0), 1)[:, None]
    o = scores(q, k, v, distance, xp.broadcast_to(at, mask.shape), detach, xp)
    if mixer.backward is not None:
        gain = split_heads(array(mixer.backward, xp)[None, None], mixer.heads)
        o = o + gain * scores(q, k, v, -distance, xp.maximum(last - at, 0), detach, xp)
    o = o / xp.sqrt((o**2).mean(-1, keepdims=True) + 1e-6)
    g = x @ gate
    return ((g / (1 + xp.exp(-g)) * o.reshape(*x.shape[:2], -1)) @ out).astype(x.dtype)


@pytest.mark.parametrize("options", [{}, {"bidirectional": False}, {"expand": 2.0}, {"qkv": 12}], ids=str)
def test_equals_the_parallel_form(options):
    x, mask = inputs()
    assert_equals(build("retnet", **options), naive, 3 * x, mask, tolerance=2e-5, rounded=0.05)


def test_equals_the_parallel_form_in_double_precision_as_it_starts():
    x, mask = inputs(301, 16, (301, 150))
    mixer = RetNet(16, 301, rngs=nnx.Rngs(0))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)[..., None]
    assert error(run(mixer, x, mask) * real, expected * real) < 1e-5


def test_a_hole_is_a_zero():
    x, mask = inputs(lengths=(13,))
    mask = mask.at[0, 4].set(False)
    mixer = build("retnet")
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    keep = np.asarray(mask)[..., None]
    assert error(run(mixer, x, mask) * keep, expected * keep) < 1e-5


def test_the_divisor_of_a_row_is_a_constant_to_the_gradient():
    """With the gradient of the divisor too, all values are the same and the gradients are not."""
    q, k, v, weight = (3 * jnp.abs(normal(2, 19, 2, 4, seed=seed)) for seed in range(4))
    at = np.arange(19)

    def loss(detach):
        def function(q, k, v):
            if detach is None:
                return (weight * retention(turned(q, 1), turned(k, 0.5), v)).sum()
            return (weight * scores(q, k, v, at[:, None] - at, np.broadcast_to(at, (2, 19)), detach, jnp)).sum()

        return jit(jax.value_and_grad(permissively(function), argnums=(0, 1, 2)))(q, k, v)

    def turned(x, scale):
        angle = at[:, None, None] * 10_000.0 ** -np.linspace(0, 1, 2)
        x = scale * (x[..., :2] + 1j * x[..., 2:]) * jnp.exp(1j * jnp.asarray(angle))
        return jnp.concatenate([x.real, x.imag], -1)

    (value, ours), (same, detached), (also, naively) = loss(None), loss(jax.lax.stop_gradient), loss(lambda x: x)
    assert error(value, same) < 1e-5 and error(also, same) < 1e-6
    assert all(error(a, e) < 1e-5 for a, e in zip(ours, detached, strict=True))
    assert all(error(a, e) > 0.1 for a, e in zip(ours[:2], naively[:2], strict=True))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_scale_of_what_comes_out_for_white_noise(bidirectional):
    """RMS makes o one, so that silu of the gate's normal numbers sets the scale: √(mean of silu²) = 0.596."""
    x, mask = inputs(400, 64, (400, 400))
    y = run(RetNet(64, 400, bidirectional=bidirectional, rngs=nnx.Rngs(1)), x, mask)
    at = np.linspace(-8, 8, 4001)
    expected = np.sqrt(np.average((at / (1 + np.exp(-at))) ** 2, weights=np.exp(-(at**2) / 2)))
    assert expected == pytest.approx(0.596, abs=1e-3)
    assert y.std() == pytest.approx(expected, rel=0.1)


def test_the_future_is_not_seen_one_way():
    x, mask = inputs(lengths=(13,))
    for bidirectional in (True, False):
        mixer = build("retnet", bidirectional=bidirectional)
        moved = np.abs(run(mixer, x.at[0, 9].add(1.0), mask) - run(mixer, x, mask))[0, :9].max()
        assert (moved > 1e-3) == bidirectional


def test_parameters():
    state = nnx.to_pure_dict(nnx.state(RetNet(8, 13, heads=2, qkv=12, expand=2.0, rngs=nnx.Rngs(0)), nnx.Param))
    assert state.pop("backward").shape == (24,)
    shapes = {name: {part: array.shape for part, array in arrays.items()} for name, arrays in state.items()}
    assert shapes == {
        "query": {"kernel": (8, 12)}, "key": {"kernel": (8, 12)}, "value": {"kernel": (8, 24)},
        "gate": {"kernel": (8, 24)}, "out": {"kernel": (24, 8)},
    }  # fmt: skip
    assert parameter_count("retnet") == parameter_count("transformer") + 4 * (256**2 + 256)
    assert parameter_count("retnet", expand=2.0) == parameter_count("transformer") + 4 * (4 * 256**2 + 512)


def test_padding_changes_nothing():
    assert padding_changes("retnet") < 1e-5
    assert padding_changes("retnet", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    for wrong, said in (({"qkv": 6}, "even multiple"), ({"expand": 0.3}, "expand"), ({"expand": 0.0}, "expand")):
        with pytest.raises(ValueError, match=said):
            build("retnet", **wrong)
    with pytest.raises(ValueError, match="heads"):
        RetNet(8, 13, heads=0, rngs=nnx.Rngs(0))

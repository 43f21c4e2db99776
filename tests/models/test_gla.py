import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core.layers import split_heads
from models.recurrent.gla import GLA
from tests.helpers.mixing import array, assert_equals, build, error, inputs, jit, padding_changes, parameter_count, run
from tests.helpers.recurrences import zeroed


def recur(q, k, v, decay, order, xp):
    """Equation 3 of the paper, over the positions in this order: o [B, L, H, V]."""
    state, out = 0 * k[:, 0][..., None] * v[:, 0][..., None, :], {}
    for t in order:
        state = decay[:, t][..., None] * state + k[:, t][..., None] * v[:, t][..., None, :]
        out[t] = xp.einsum("bhk,bhkv->bhv", q[:, t], state)
    return xp.stack([out[t] for t in sorted(out)], 1)


def naive(mixer, x, mask, xp=jnp):
    """One position after the other; at padding nothing is read and nothing forgotten."""

    u = zeroed(x, mask, xp)
    q, k, v = (split_heads(u @ array(m.kernel, xp), mixer.heads) for m in (mixer.query, mixer.key, mixer.value))
    logits = u @ array(mixer.reduce.kernel, xp) @ array(mixer.forget.kernel, xp) + array(mixer.forget.bias, xp)
    decay = (0.5 + 0.5 * xp.tanh(logits / 2)) ** (1 / mixer.slowness)
    decay = split_heads(xp.where(mask[..., None], decay, 1), mixer.heads)
    q, steps = q / np.sqrt(q.shape[-1]), range(x.shape[1])
    o = recur(q, k, v, decay, steps, xp)
    if mixer.backward is not None:
        gain = split_heads(array(mixer.backward, xp)[None, None], mixer.heads)
        o = o + gain * recur(q, k, v, decay, reversed(steps), xp)
    o = o / xp.sqrt((o**2).mean(-1, keepdims=True) + 1e-6) * array(mixer.gain, xp)
    g = x @ array(mixer.gate.kernel, xp)
    return ((g / (1 + xp.exp(-g)) * o.reshape(*x.shape[:2], -1)) @ array(mixer.out.kernel, xp)).astype(x.dtype)


@pytest.mark.parametrize(
    "options", [{"rank": 3}, {"bidirectional": False, "qkv": 12}, {"expand_k": 1.0, "slowness": 1.0}], ids=str
)
def test_equals_the_recurrence(options):
    # With the usual seed a head's output has an RMS of 0.005: the division by it makes rounding 200 times as large.
    x, mask = inputs(9, lengths=(9, 5, 1), seed=2)
    assert_equals(build("gla", **options), naive, x, mask, tolerance=1e-5, rounded=0.05)


@pytest.mark.parametrize("slowness", [16.0, 0.05])
def test_equals_the_recurrence_in_double_precision_as_it_starts(slowness):
    """With the small one, the logarithms of a chunk's gates add up to about −1,000."""
    x, mask = inputs(203, 16, (203, 150))
    mixer = GLA(16, 203, slowness=slowness, rngs=nnx.Rngs(0))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)[..., None]
    assert error(run(mixer, x, mask) * real, expected * real) < 2e-5


def test_a_hole_is_not_read_and_lets_the_memory_pass():
    x, mask = inputs(lengths=(13,))
    mask, mixer = mask.at[0, 4].set(False), build("gla", slowness=0.5)
    keep = np.asarray(mask)[..., None]
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    assert error(run(mixer, x, mask) * keep, expected * keep) < 1e-5


@pytest.mark.parametrize("bias", [-1e5, 1e5])
def test_gates_that_are_shut_or_open_are_finite(bias):
    x, mask = inputs(150, lengths=(150, 70))
    mixer = build("gla", 150)
    mixer.forget.bias[...] = jnp.full_like(mixer.forget.bias[...], bias)
    graph, state = nnx.split(mixer)
    y, gradients = jit(jax.value_and_grad(lambda state: (nnx.merge(graph, state)(x, mask) ** 2).sum()))(state)
    assert np.isfinite(y) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    real = np.asarray(mask)[..., None]
    assert error(run(mixer, x, mask) * real, expected * real) < 2e-5


@pytest.mark.parametrize("bidirectional", [True, False])
def test_scale_of_what_comes_out_for_white_noise(bidirectional):
    """As of `retnet`: RMS makes o one, and silu of normal numbers has a mean square of 0.596²."""
    x, mask = inputs(400, 64, (400, 400))
    y = run(GLA(64, 400, bidirectional=bidirectional, rngs=nnx.Rngs(1)), x, mask)
    assert y.std() == pytest.approx(0.596, rel=0.1)


def test_gates_start_near_the_sixteenth_root_of_one_half():
    mixer = GLA(64, 13, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(4000, 64))
    logits = x @ np.asarray(mixer.reduce.kernel[...]) @ np.asarray(mixer.forget.kernel[...])
    assert np.all(np.asarray(mixer.forget.bias[...]) == 0)
    decay = (1 / (1 + np.exp(-logits))) ** (1 / 16)
    assert np.median(decay) == pytest.approx(0.5 ** (1 / 16), abs=2e-3)
    assert logits.std() == pytest.approx(1, rel=0.2)


def test_the_future_is_not_seen_one_way():
    x, mask = inputs(lengths=(13,))
    for bidirectional in (True, False):
        mixer = build("gla", bidirectional=bidirectional)
        moved = np.abs(run(mixer, x.at[0, 9].add(1.0), mask) - run(mixer, x, mask))[0, :9].max()
        assert (moved > 1e-3) == bidirectional


def test_parameters():
    state = nnx.to_pure_dict(nnx.state(GLA(8, 13, heads=2, qkv=12, rank=3, rngs=nnx.Rngs(0)), nnx.Param))
    gain, backward = state.pop("gain"), state.pop("backward")
    assert gain.shape == (6,) and np.all(gain == 1) and backward.shape == (12,)
    shapes = {name: {part: array.shape for part, array in arrays.items()} for name, arrays in state.items()}
    assert shapes == {
        "query": {"kernel": (8, 6)}, "key": {"kernel": (8, 6)}, "value": {"kernel": (8, 12)},
        "gate": {"kernel": (8, 12)}, "out": {"kernel": (12, 8)},
        "reduce": {"kernel": (8, 3)}, "forget": {"kernel": (3, 6), "bias": (6,)},
    }  # fmt: skip
    added = 16 * 256 + 16 * 128 + 128 + 64 + 256
    assert parameter_count("gla") == parameter_count("transformer") + 4 * added


def test_padding_changes_nothing():
    assert padding_changes("gla", layers=2) < 1e-5
    assert padding_changes("gla", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    for wrong in ({"qkv": 7}, {"expand_k": 0.3}, {"rank": 0}, {"slowness": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("gla", **wrong)
    with pytest.raises(ValueError, match="heads"):
        GLA(8, 13, heads=0, rngs=nnx.Rngs(0))

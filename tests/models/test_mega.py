"""MEGA and MEGA-chunk against the paper's equations, one position after the other, and what its averages share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.core import relative_attention
from models.core.blocks import Frame
from models.core.layers import BatchRngs
from models.core.moving_average import ComplexMovingAverage, MovingAverage
from models.core.relative_attention import RotaryBias, SimpleBias, attend_relative, toeplitz
from models.moving_average.mega import Mega, MegaChunk
from tests.helpers.mixing import (
    QUICK,
    array,
    assert_equals,
    build,
    build_encoder,
    error,
    inputs,
    jit,
    normal,
    padding_changes,
    parameter_count,
    randomised,
    run,
)
from tests.helpers.recurrences import recur, recur_back, zeroed

NAMES = ("mega", "mega_chunk")
CHUNK = 4
OPTIONS = {
    "real": {},
    "laplace": {"attention": "laplace", "truncation": 3},
    "rotary": {"bias": "rotary", "ema": "complex"},
    "wide": {"z": 6, "hidden": 11, "modes": 3, "attention": "laplace", "bias": "rotary", "ema": "complex"},
}


def chunks(name):
    return {"chunk": CHUNK} if name == "mega_chunk" else {}


def drawn(make):
    """A module as it starts, its draws compiled as one program."""
    return nnx.merge(nnx.graphdef(nnx.eval_shape(make)), jit(lambda: nnx.state(make()))())


def sigmoid(x, xp):
    return 1 / (1 + xp.exp(-x))


def silu(x, xp):
    return x * sigmoid(x, xp)


def erf(x, xp):
    return jax.scipy.special.erf(x) if xp is jnp else np.vectorize(math.erf)(x)


def linear(layer, x, xp):
    return x @ array(layer.kernel, xp) + array(layer.bias, xp)


def modes_of(average, direction, xp):
    """How much of u enters each mode, what a mode keeps at each position, and how it is read: [D, N] each."""
    p = {name: array(getattr(average, name), xp)[direction] for name in ("alpha", "delta", "gamma")}
    if isinstance(average, ComplexMovingAverage):
        count = p["alpha"].shape[-1]
        angle = sigmoid(array(average.theta, xp)[direction], xp)[:, None] * 2 * np.pi / count * np.arange(1, count + 1)
        keep = (1 - sigmoid(p["alpha"], xp) * sigmoid(p["delta"], xp)) * xp.exp(1j * angle)
        return sigmoid(p["alpha"], xp), keep, p["gamma"][..., 0] + 1j * p["gamma"][..., 1]
    beta, share = array(average.beta, xp)[direction], sigmoid(p["delta"], xp)
    return share * beta, 1 - share * sigmoid(p["alpha"], xp), p["gamma"]


def naive_average(average, u, xp=jnp):
    """Both averages by their recurrences; a truncated one lacks what left it `truncation` positions ago."""
    y = array(average.omega, xp) * u
    for direction, run_through in enumerate((recur, recur_back)):
        enter, keep, read = modes_of(average, direction, xp)
        driven = enter * u[..., None]
        if average.truncation is not None and average.truncation < u.shape[1]:
            lags = average.truncation
            late = xp.zeros_like(driven[:, :lags])
            gone = [late, driven[:, :-lags]] if direction == 0 else [driven[:, lags:], late]
            driven = driven - keep**lags * xp.concatenate(gone, 1)
        h = run_through(keep, driven, xp)
        y = y + (h * read).sum(-1).real / np.sqrt(read.shape[-1])
    return y


def naive_bias(bias, length, xp):
    """b [L, L]: row i, column j."""
    i, j = np.arange(length)[:, None], np.arange(length)[None]
    if isinstance(bias, SimpleBias):
        return array(bias.table, xp)[j - i + bias.most - 1]
    alpha, beta = array(bias.alpha, xp), array(bias.beta, xp)
    half = len(alpha) // 2
    turn = np.exp(1j * np.arange(length)[:, None] * 10_000.0 ** (-np.arange(half) / half))
    a, b = ((v[:half] + 1j * v[half:]) * turn for v in (alpha, beta))
    return (a.real @ b.real.T) + (a.imag @ b.imag.T)


def naive_weights(mixer, q, k, mask, xp):
    """[B, L, L], with every pair that may be seen in one array."""
    length = q.shape[1]
    block = np.arange(length) // (mixer.chunk if isinstance(mixer, MegaChunk) else length)
    seen = (block[:, None] == block[None])[None] & mask[:, None, :]
    if isinstance(mixer.bias, SimpleBias) and isinstance(mixer, MegaChunk):
        table = array(mixer.bias.table, xp)
        distance = np.clip(np.arange(length)[None] - np.arange(length)[:, None] + mixer.chunk - 1, 0, len(table) - 1)
        b = table[distance]
    else:
        b = naive_bias(mixer.bias, length, xp)
    scores = xp.einsum("bik,bjk->bij", q, k)
    if mixer.attention == "softmax":
        w = xp.exp(scores / np.sqrt(q.shape[-1]) + b) * seen
        total = w.sum(-1, keepdims=True)
        return w / xp.where(total > 0, total, 1)
    count = xp.maximum(seen.sum(-1, keepdims=True), 1)
    return 0.5 * (1 + erf((scores / count + b - 0.5**0.5) / np.sqrt(0.5 / np.pi), xp)) * seen


def naive_candidate(mixer, x, mask, xp=jnp):
    m = silu(naive_average(mixer.average, zeroed(x, mask, xp), xp), xp)
    base, dim = linear(mixer.base, m, xp), x.shape[-1]
    u, z, r, h = (base[..., a:b] for a, b in ((0, dim), (dim, dim + mixer.z), (dim + mixer.z, -dim), (-dim, None)))
    z, gain, offset = silu(z, xp), array(mixer.gain, xp), array(mixer.offset, xp)
    q, k = z * gain[0] + offset[0], z * gain[1] + offset[1]
    o = naive_weights(mixer, q, k, mask, xp) @ silu(linear(mixer.value, x, xp), xp)
    return sigmoid(u, xp), silu(h + linear(mixer.out, o * silu(r, xp), xp), xp)


def naive(mixer, x, mask, xp=jnp):
    u, h = naive_candidate(mixer, x, mask, xp)
    return (u * (h - x)).astype(x.dtype)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_equals_its_equations(name, options):
    """13 positions, which no chunk divides; padding; and gradients, that of the bias too."""
    x, mask = inputs()
    assert_equals(build(name, **chunks(name), **OPTIONS[options]), naive, x, mask, tolerance=3e-5)


@pytest.mark.parametrize("weights", ["softmax", "laplace"])
def test_tiles_are_the_whole(weights, monkeypatch):
    """Five queries at a time, the last tile padded, one document after the other."""
    monkeypatch.setattr(relative_attention, "plan", lambda *sizes: (1, 5))
    x, mask = inputs()
    assert_equals(build("mega", attention=weights), naive, x, mask, tolerance=3e-5)


@pytest.mark.parametrize(("name", "options"), [("mega", "real"), ("mega", "wide"), ("mega_chunk", "laplace")])
def test_equals_its_equations_in_double_precision_as_it_starts(name, options):
    x, mask = inputs(301, 4, (301, 150))
    kind = {"mega": Mega, "mega_chunk": MegaChunk}[name]
    mixer = drawn(lambda: kind(4, 301, **OPTIONS[options], rngs=nnx.Rngs(0)))
    assert error(run(mixer, x, mask), naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)) < 1e-5


@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_block_updates_its_stream(name, prenorm):
    """s + u ⊙ (h − s), where s is the stream, and u and h come from its norm in a pre-norm block."""
    frame = Frame(8, 8, rate=0.0, norm="rms", prenorm=prenorm, block="silu_mlp")
    b = randomised(lambda: frame.make_block(build(name, **chunks(name)), nnx.Rngs(0)))
    x, mask = inputs()
    got, _ = jit(lambda x: b(x, mask, None))(x)
    x, mask = np.asarray(x, np.float64), np.asarray(mask)

    def norm(layer, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * array(layer.scale, np)

    def feed(x):
        return linear(b.mlp.out, silu(linear(b.mlp.into, x, np), np), np)

    u, h = naive_candidate(b.mixer, norm(b.norm_mixer, x) if prenorm else x, mask, np)
    x = (1 - u) * x + u * h
    if prenorm:
        want = x + feed(norm(b.norm_mlp, x))
    else:
        x = norm(b.norm_mixer, x)
        want = norm(b.norm_mlp, x + feed(x))
    assert error(np.asarray(got)[mask], want[mask]) < 1e-5


@pytest.mark.parametrize("kind", [MovingAverage, ComplexMovingAverage])
def test_a_lag_of_zero_counts_twice(kind):
    """What an impulse becomes: k_0 + k'_0 + ω at its place, k after it and k' before it, up to the truncation."""
    average = randomised(lambda: kind(2, 5, 3, rngs=nnx.Rngs(0)))
    kernels = []
    for direction in range(2):
        enter, keep, read = modes_of(average, direction, np)
        kernels.append([(enter * keep**lag * read).sum(-1).real / np.sqrt(5) for lag in range(3)])
    (k0, k1, k2), (b0, b1, b2) = kernels
    zero = np.zeros(2)
    got = jit(average)(jnp.zeros((1, 9, 2)).at[0, 4].set(1.0))[0]
    want = np.array([zero, zero, b2, b1, k0 + b0 + array(average.omega, np), k1, k2, zero, zero])
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_saturated_gates_are_finite():
    graph, state = nnx.split(randomised(lambda: MovingAverage(3, 4, None, rngs=nnx.Rngs(0))))
    gradient = jit(jax.grad(lambda state: (nnx.merge(graph, state)(normal(1, 50, 3)) ** 2).sum()))
    for value in (60.0, -60.0):
        state["delta"][...] = state["alpha"][...] = jnp.full((2, 3, 4), value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(state)))


@pytest.mark.parametrize("attention", ["softmax", "laplace"])
def test_gradients_of_attention_in_tiles(attention, monkeypatch):
    """Of q, k, v and the bias, against all pairs at once."""
    q, k, v, bias = normal(3, 11, 4), normal(3, 11, 4, seed=1), normal(3, 11, 5, seed=2), normal(21, seed=3)
    mask = np.arange(11) < np.array([11, 6, 0])[:, None]

    def dense(q, k, v, bias):
        b = bias[np.arange(11)[None] - np.arange(11)[:, None] + 10]
        s = jnp.einsum("gik,gjk->gij", q, k)
        real = mask.sum(-1)[:, None, None]
        if attention == "softmax":
            w = jnp.exp(s / 2 + b[None]) * mask[:, None]
            w = w / jnp.where(real > 0, w.sum(-1, keepdims=True), 1)
        else:
            w = 0.5 * (1 + jax.scipy.special.erf((s / np.maximum(real, 1) + b[None] - 0.5**0.5) / (0.5 / np.pi) ** 0.5))
            w = w * mask[:, None]
        return w @ v

    def tiled(*arrays):
        return attend_relative(attention, *arrays[:3], jnp.asarray(mask), arrays[3])

    monkeypatch.setattr(relative_attention, "plan", lambda *sizes: (1, 4))
    found = []
    for f in (tiled, dense):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            weighted = jit(jax.grad(lambda *a: (f(*a) * normal(3, 11, 5, seed=4)).sum(), (0, 1, 2, 3)))  # noqa: B023
            found.append([jit(f)(q, k, v, bias), *weighted(q, k, v, bias)])
    for got, want in zip(*found, strict=True):
        assert error(got, want) < 1e-5


def test_a_toeplitz_matrix():
    for rows, columns in ((1, 4), (3, 1), (4, 6)):
        b = np.arange(rows + columns)
        want = [[b[rows - 1 - r + j] for j in range(columns)] for r in range(rows)]
        np.testing.assert_array_equal(toeplitz(jnp.asarray(b), rows), want)


@pytest.mark.parametrize(("kind", "size"), [(SimpleBias, 9), (RotaryBias, 6)])
def test_biases_by_distance(kind, size):
    bias = randomised(lambda: kind(size, rngs=nnx.Rngs(0)))
    for length in (1, 5, 9):
        got = np.asarray(jit(lambda: bias(length))())  # noqa: B023
        by_pair = naive_bias(bias, length, np)
        assert got.shape == (2 * length - 1,)
        for i in range(length):
            np.testing.assert_allclose(by_pair[i], got[length - 1 - i : 2 * length - 1 - i], atol=1e-6)


def test_laplace_divides_by_the_keys_that_are_real():
    """Two documents, the same but for padding; at chunks, by those of the chunk."""
    for name in NAMES:
        mixer = build(name, attention="laplace", **chunks(name))
        x, _ = inputs(lengths=(6,))
        mask = jnp.arange(13)[None] < 6
        padded = run(mixer, x, mask)[:, :6]
        assert error(padded, run(mixer, x[:, :6], mask[:, :6])) < 1e-6
        q = k = normal(1, 6, mixer.z) + 1
        whole = naive_weights(mixer, q, k, np.ones((1, 6), bool), np)
        assert error(whole, naive_weights(mixer, q * 13 / 6, k, np.ones((1, 6), bool), np)) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_a_hole_in_the_mask_is_read_as_a_zero_and_no_key(name):
    x, _ = inputs(lengths=(13,))
    mask = jnp.ones((1, 13), bool).at[0, 4].set(False)
    mixer = build(name, **chunks(name))
    real = np.asarray(mask[0])
    changed = run(mixer, x.at[0, 4].set(100.0), mask)[:, real]
    assert error(changed, run(mixer, x, mask)[:, real]) < 1e-6
    assert error(changed, np.asarray(naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np))[:, real]) < 1e-5


def test_who_sees_whom():
    """In `mega` all; in `mega_chunk` too, by the averages, and without them the same chunk."""
    x, mask = inputs(lengths=(13,))
    for name in NAMES:
        mixer = build(name, **chunks(name))

        def moved(mixer):
            return np.abs(run(mixer, x.at[0, 6].add(1.0), mask) - run(mixer, x, mask)).max((0, 2)) > 1e-6

        assert moved(mixer).all()
        mixer.average.gamma[...] = jnp.zeros_like(mixer.average.gamma[...])
        assert list(np.flatnonzero(moved(mixer))) == (list(range(13)) if name == "mega" else [4, 5, 6, 7])


@pytest.mark.parametrize("ema", ["real", "complex"])
def test_what_is_drawn(ema):
    mixer = drawn(lambda: Mega(512, 3000, z=400, modes=32, ema=ema, rngs=nnx.Rngs(0)))
    average = mixer.average
    laws = {"delta": 0.2, "alpha": 0.2, "gamma": 1.0, "beta": 0.02, "omega": 1.0, "gain": 0.02}
    values = {name: np.asarray(getattr(average, name)[...]) for name in ("delta", "alpha", "gamma", "omega")}
    values["gain"] = np.asarray(mixer.gain[...])
    if ema == "real":
        beta = np.asarray(average.beta[...])
        values["beta"] = beta - np.where(np.arange(32) % 2, -1, 1)
    else:
        laws["omega"] = 0.25
        assert not values["gamma"][..., 1].any()
        values["gamma"] = values["gamma"][..., 0]
        frequencies = 1 / (1 + np.exp(-np.asarray(average.theta[...], np.float64)))
        want = np.exp(-np.log(512) / 512 * np.arange(1, 513))
        np.testing.assert_allclose(np.sort(frequencies, 1), np.tile(want[::-1], (2, 1)), rtol=1e-4)
        assert (frequencies[0] != frequencies[1]).any() and (np.diff(frequencies[0]) > 0).any()
    for name, array_ in values.items():
        assert array_.std() == pytest.approx(laws[name], rel=0.1 if array_.size < 1000 else 0.03), name
        assert abs(array_.mean()) < 6 * laws[name] / math.sqrt(array_.size), name
    for name in ("value", "base", "out"):
        layer = getattr(mixer, name)
        assert np.asarray(layer.kernel[...]).std() == pytest.approx(0.02, rel=0.02)
        assert not np.asarray(layer.bias[...]).any()
    assert not np.asarray(mixer.offset[...]).any()
    assert np.asarray(mixer.bias.table[...]).std() == pytest.approx(0.02, rel=0.05)
    rotary = drawn(lambda: RotaryBias(4000, rngs=nnx.Rngs(0)))
    assert np.asarray(rotary.alpha[...]).std() == pytest.approx(0.02, rel=0.05)
    assert np.asarray(rotary.beta[...]).std() == pytest.approx(0.02, rel=0.05)
    assert abs(np.corrcoef(rotary.alpha[...], rotary.beta[...])[0, 1]) < 0.1


@pytest.mark.parametrize(("kind", "omega"), [(MovingAverage, 1.0), (ComplexMovingAverage, 0.25)])
def test_scale_of_averaged_white_noise_as_it_starts(kind, omega):
    """√(2 Σ_l k_l² + ω²), with k's variance by the laws of p, q and the frequencies."""
    average = drawn(lambda: kind(1024, 16, None, rngs=nnx.Rngs(1)))
    rng, lags = np.random.default_rng(0), np.arange(64)
    p, other = (1 / (1 + np.exp(-0.2 * rng.normal(size=(4000, 1)))) for _ in range(2))
    squares = (p**2 * (1 - p * other) ** (2 * lags)).mean(0)
    if kind is ComplexMovingAverage:
        frequencies = 1024 ** (-np.arange(1, 1025) / 1024)
        angles = (2 * np.pi / 16 * frequencies[:, None] * np.arange(1, 17)).reshape(-1, 1)
        squares *= (np.cos(angles * lags) ** 2).mean(0)
    want = math.sqrt(2 * squares.sum() + omega**2)
    assert float(jnp.std(jit(average)(normal(1, 512, 1024)))) == pytest.approx(want, rel=0.05)


def test_parameters():
    mixer = nnx.eval_shape(lambda: Mega(8, 13, z=6, hidden=10, modes=3, rngs=nnx.Rngs(0)))
    state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in flat}
    assert shapes == {
        "average/delta": (2, 8, 3), "average/alpha": (2, 8, 3), "average/beta": (2, 8, 3),
        "average/gamma": (2, 8, 3), "average/omega": (8,), "value/kernel": (8, 10), "value/bias": (10,),
        "base/kernel": (8, 32), "base/bias": (32,), "out/kernel": (10, 8), "out/bias": (8,), "gain": (2, 6),
        "offset": (2, 6), "bias/table": (25,),
    }  # fmt: skip
    roles = {"delta": "A", "alpha": "A", "beta": "B", "gamma": "C", "omega": None}
    assert {name: getattr(mixer.average, name).get_metadata().get("role") for name in roles} == roles
    average = nnx.eval_shape(lambda: Mega(8, 13, ema="complex", rngs=nnx.Rngs(0))).average
    roles = {"delta": "A", "alpha": "A", "theta": "A", "gamma": "C", "omega": None}
    assert {name: getattr(average, name).get_metadata().get("role") for name in roles} == roles
    assert average.gamma.shape == (2, 8, 16, 2) and average.theta.shape == (2, 8)
    assert nnx.eval_shape(lambda: MegaChunk(8, 13, chunk=100, rngs=nnx.Rngs(0))).bias.table.shape == (25,)


def test_maps_have_the_parameters_of_attention_by_default():
    biases = 128 + 2 * 256 + 128 + 128 + 256 + 4 * 128
    averages = 256 * (8 * 16 + 1)
    more = parameter_count("mega") - parameter_count("ff_only")
    assert more == 4 * (4 * 256**2 + averages + biases + 2 * 1001 - 1)
    more = parameter_count("mega_chunk") - parameter_count("ff_only")
    assert more == 4 * (4 * 256**2 + averages + biases + 2 * 128 - 1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name, options):
    assert padding_changes(name, **chunks(name), **OPTIONS[options]) < 1e-5


@pytest.mark.parametrize(("name", "attention"), [("mega", "softmax"), ("mega_chunk", "laplace")])
def test_a_step_s_memory_is_linear_in_length(name, attention):
    def temporaries(length):
        mixer = {"mega": Mega, "mega_chunk": MegaChunk}[name]
        mixer = nnx.eval_shape(lambda: mixer(16, length, attention=attention, dropout=0.1, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(mixer)
        x = jax.ShapeDtypeStruct((2, length, 16), jnp.float32)

        def loss(state, x):
            rngs = BatchRngs(jax.random.key(0))
            return (nnx.merge(graph, state)(x, jnp.ones(x.shape[:2], bool), rngs) ** 2).sum()

        return jax.jit(jax.grad(loss, (0, 1))).lower(state, x).compile(QUICK).memory_analysis().temp_size_in_bytes

    assert temporaries(4096) < 2.3 * temporaries(2048)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_falls_on_weights_on_the_average_and_on_the_candidate(name):
    x, mask = inputs(40, 8, (40,) * 30)

    def candidate(training, **rates):
        mixer = build(name, 40, **chunks(name), **rates)
        return jit(lambda x: mixer.candidate(x, mask, BatchRngs(jax.random.key(0)) if training else None))(x)

    gate, h = candidate(False)
    weights_gate, weights_h = candidate(True, dropout=0.5)
    assert error(weights_gate, gate) < 1e-6 and error(weights_h, h) > 0.01
    residual_gate, residual_h = candidate(True, residual_dropout=0.5)
    assert error(residual_gate, gate) > 0.01  # the gate sees the average, of which half is gone
    assert float((residual_h == 0).mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("attention", ["softmax", "laplace"])
def test_dropped_weights_keep_their_mean(attention):
    """Over 2,000 draws of the same problem."""
    draws, length = 2000, 4
    q, k, v, bias = normal(1, length, 3), normal(1, length, 3, seed=1), normal(1, length, 2, seed=2), normal(7, seed=3)
    mask = jnp.asarray([[True, True, True, False]])
    many = [jnp.tile(a, (draws, 1, 1)) for a in (q, k, v)]
    bits = [jax.random.bits(jax.random.key(i), (draws, length), jnp.uint32) for i in range(2)]
    dropping = relative_attention.Dropping(0.3, *bits)
    got = attend_relative(attention, *many, jnp.tile(mask, (draws, 1)), bias, dropping)
    whole = attend_relative(attention, q, k, v, mask, bias)
    assert error(got.mean(0), whole[0]) < 0.06
    assert float(jnp.abs(got - whole).max()) > 0.01


def test_errors():
    for wrong in (
        {"z": 0}, {"hidden": 0}, {"modes": 0}, {"truncation": 0}, {"ema": "imaginary"}, {"attention": "relu"},
        {"bias": "none"}, {"dropout": 1.0}, {"residual_dropout": -0.1},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("mega", **wrong)
    with pytest.raises(ValueError, match="even z"):
        build("mega", z=5, bias="rotary")
    with pytest.raises(ValueError, match="chunk"):
        build("mega_chunk", chunk=0)
    with pytest.raises(ValueError, match="reversible"):
        build_encoder("mega", 5, reversible=True)

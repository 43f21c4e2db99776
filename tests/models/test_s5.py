import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.state_space.s5 import S5, initial_basis
from tests.helpers.mixing import assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import build_stable, pair, recur, recur_back, zeroed


def naive(mixer, x, mask, xp=jnp):
    """Sections 2 and 3 of the paper, one position after the other; h is [B, L, P']."""
    decay, frequency, log_step, into, out, skip = (
        p[...] if xp is jnp else np.asarray(p[...], np.float64)
        for p in (mixer.decay, mixer.frequency, mixer.log_step, mixer.into, mixer.out, mixer.skip)
    )
    if mixer.clip_eigs:
        decay = xp.where(decay > -1e-4, -1e-4, decay)
    a, b, c = decay + 1j * frequency, pair(into), pair(out)
    discrete = xp.exp(a * xp.exp(log_step) * mixer.step_rescale)
    b = ((discrete - 1) / a)[:, None] * b
    u = zeroed(x, mask, xp)
    driven = u @ b.T
    y = recur(discrete, driven, xp) @ c[0].T
    if len(c) == 2:
        y += recur_back(discrete, driven, xp) @ c[1].T
    return ((2 if mixer.conj_sym else 1) * y.real + skip * u).astype(x.dtype)


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": False}, {"conj_sym": False}, {"clip_eigs": True}, {"step_rescale": 2.0}],
    ids=str,
)
def test_equals_the_recurrence(options):
    x, mask = inputs()
    mixer = build_stable("s5", state=6, **options)
    if "clip_eigs" in options:
        mixer.decay[...] = mixer.decay[...].at[0].set(0.3)
    assert_equals(mixer, naive, x, mask, tolerance=2e-5, rounded=0.01)


@pytest.mark.parametrize("conj_sym", [True, False])
def test_equals_the_recurrence_in_double_precision_as_it_starts(conj_sym):
    x, mask = inputs(301, 4, (301, 150))
    mixer = S5(4, 301, state=16, blocks=2, c_init="trunc", conj_sym=conj_sym, rngs=nnx.Rngs(0))
    assert error(run(mixer, x, mask), naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)) < 5e-6


def test_equals_a_convolution():
    """K_l = 2 Re(C Λ̄^l B̄), a matrix for each lag, from both sides; both count a position itself."""
    x, mask = inputs(9, lengths=(9,))
    mixer = build_stable("s5", length=9, state=4)
    a = np.asarray(mixer.decay[...]) + 1j * np.asarray(mixer.frequency[...])
    rate = a * np.exp(np.asarray(mixer.log_step[...]))
    b = ((np.exp(rate) - 1) / a)[:, None] * pair(np.asarray(mixer.into[...]))
    c, u = pair(np.asarray(mixer.out[...])), np.asarray(x[0])
    y = np.asarray(mixer.skip[...]) * u
    for t in range(9):
        for s in range(9):
            kernel = 2 * (c[0 if s <= t else 1] * np.exp(rate * abs(t - s)) @ b).real
            y[t] += kernel @ u[s] + (2 * (c[1] @ b).real @ u[s] if s == t else 0)
    assert error(run(mixer, x, mask)[0], y) < 1e-5


def test_the_basis_diagonalises_hippo_n():
    """A = V Λ V* block by block, for A_nk of the paper's appendix; half of it and its conjugate make the whole."""
    n = np.arange(4)
    root = np.sqrt(2 * n + 1)
    hippo = -np.where(n[:, None] > n, np.outer(root, root), np.diag(n + 1.0)) * (n[:, None] >= n)
    normal = hippo + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    a, v = initial_basis(8, 2, conj_sym=False)
    np.testing.assert_allclose(v @ np.diag(a) @ v.conj().T, np.kron(np.eye(2), normal), atol=1e-12)
    half, w = initial_basis(8, 2, conj_sym=True)
    assert w.shape == (8, 4) and (half.imag > 0).all()
    np.testing.assert_allclose(2 * (w @ np.diag(half) @ w.conj().T).real, np.kron(np.eye(2), normal), atol=1e-12)


def test_what_is_drawn():
    """B = V* B₀ with B₀ real: V and its conjugate take B back to B₀."""
    mixer = S5(512, 8, state=256, blocks=16, rngs=nnx.Rngs(0))
    _, v = initial_basis(256, 16, conj_sym=True)
    real = 2 * (v @ pair(np.asarray(mixer.into[...]))).real
    assert real.std() == pytest.approx(256**-0.5, rel=0.02)
    assert np.abs(real).max() < 2.3 * 256**-0.5  # truncated
    steps = np.quantile(np.asarray(S5(2, 8, state=1024, blocks=128, rngs=nnx.Rngs(0)).log_step[...]), [0, 0.5, 1])
    np.testing.assert_allclose(steps, [np.log(1e-3), np.log(1e-2), np.log(0.1)], atol=0.3)
    assert np.asarray(mixer.skip[...]).std() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("c_init", "variance"), [("lecun", 1 / (256 * 128)), ("trunc", 1 / 256), ("complex", 0.5)], ids=str
)
def test_both_parts_of_c_have_the_variance_of_the_paper(c_init, variance):
    """V has orthonormal columns, so that C₀V has in each entry the variance of C₀ in both parts."""
    mixer = S5(128, 8, state=256, blocks=16, c_init=c_init, rngs=nnx.Rngs(0))
    out = np.asarray(mixer.out[...])
    assert out.shape == (2, 128, 128, 2)
    np.testing.assert_allclose(out.var((1, 2)), variance, rtol=0.05)
    assert abs(np.corrcoef(out[0].ravel(), out[1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize(("c_init", "scale"), [("lecun", 0.017), ("trunc", 0.19), ("complex", 2.1)])
def test_scale_of_what_comes_out_for_white_noise(c_init, scale):
    """At width 128 and 1,024 positions, without D u: as measured on the equations when this was written."""
    x, mask = inputs(1024, 128, (1024,))
    mixer = S5(128, 1024, state=256, blocks=16, c_init=c_init, rngs=nnx.Rngs(1))
    mixer.skip[...] = jnp.zeros(128)
    assert run(mixer, x, mask).std() == pytest.approx(scale, rel=0.15)


def test_half_the_resolution_with_twice_the_step():
    """A signal that holds for two positions drives a state as one position of twice the length does."""
    options = {"state": 6, "bidirectional": False}
    x, mask = inputs(16, lengths=(16,))
    fine, coarse = (build_stable("s5", **options, step_rescale=scale) for scale in (1.0, 2.0))
    for mixer in (fine, coarse):
        mixer.skip[...] = jnp.zeros(8)
    twice = run(fine, jnp.repeat(x, 2, axis=1), jnp.repeat(mask, 2, axis=1))
    assert error(run(coarse, x, mask), twice[:, 1::2]) < 1e-5


def test_parameters():
    for conj_sym, modes in ((True, 4), (False, 8)):
        mixer = S5(6, 13, state=8, conj_sym=conj_sym, rngs=nnx.Rngs(0))
        state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
        assert {name: array.shape for name, array in state.items()} == {
            "decay": (modes,), "frequency": (modes,), "log_step": (modes,), "into": (modes, 6, 2),
            "out": (2, 6, modes, 2), "skip": (6,),
        }  # fmt: skip
        assert {array.dtype for array in state.values()} == {jnp.dtype("float32")}
    roles = {"decay": "A", "frequency": "A", "log_step": "step", "into": "B", "out": "C", "skip": None}
    assert {name: getattr(mixer, name).get_metadata().get("role") for name in roles} == roles
    assert parameter_count("s5") == parameter_count("ff_only") + 4 * (3 * 32 + 3 * 256 * 32 * 2 + 256)


def test_padding_changes_nothing():
    assert padding_changes("s5", clip_eigs=True) < 1e-5
    assert padding_changes("s5", clip_eigs=True, bidirectional=False, pool="mean") < 1e-5


def test_errors():
    for wrong, message in (
        ({"state": 6, "blocks": 4}, "blocks"),
        ({"state": 6, "blocks": 2}, "even"),
        ({"blocks": 0}, "blocks"),
        ({"c_init": "xavier"}, "c_init"),
        ({"step_min": 0.2}, "step_min"),
    ):
        with pytest.raises(ValueError, match=message):
            build("s5", **wrong)
    assert build("s5", state=6, blocks=2, conj_sym=False).decay.shape == (6,)

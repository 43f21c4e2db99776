import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.state_space.lru import LRU
from tests.helpers.mixing import assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import pair, recur, recur_back, zeroed


def naive(mixer, x, mask, xp=jnp):
    """Equation 4 and section 3 of the paper, one position after the other; h is [B, L, N]."""
    log_decay, log_phase, log_gain, into, out, skip = (
        p[...] if xp is jnp else np.asarray(p[...], np.float64)
        for p in (mixer.log_decay, mixer.log_phase, mixer.log_gain, mixer.into, mixer.out, mixer.skip)
    )
    decay = xp.exp(-xp.exp(log_decay) + 1j * xp.exp(log_phase))
    u = zeroed(x, mask, xp)
    driven = xp.exp(log_gain) * (u @ pair(into).T)
    c = pair(out)
    y = recur(decay, driven, xp) @ c[0].T
    if len(c) == 2:
        y += recur_back(decay, driven, xp) @ c[1].T
    return (y.real + skip * u).astype(x.dtype)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_equals_the_recurrence(bidirectional):
    x, mask = inputs()
    mixer = build("lru", state=6, bidirectional=bidirectional)
    assert_equals(mixer, naive, x, mask, tolerance=2e-5, rounded=0.01)


def test_equals_the_recurrence_in_double_precision_as_it_starts():
    x, mask = inputs(301, 4, (301, 150))
    mixer = LRU(4, 301, r_min=0.9, r_max=0.999, rngs=nnx.Rngs(0))
    assert error(run(mixer, x, mask), naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)) < 1e-5


@pytest.mark.parametrize(("r_min", "r_max", "max_phase"), [(0.0, 1.0, 2 * np.pi), (0.9, 0.999, np.pi / 10)])
def test_the_ring_is_uniform_by_its_area(r_min, r_max, max_phase):
    """Lemma 3.2 of the paper; and γ² = 1 − |λ|²."""
    mixer = LRU(2, 8, state=20_000, r_min=r_min, r_max=r_max, max_phase=max_phase, rngs=nnx.Rngs(0))
    log_decay, log_phase, log_gain = (
        np.asarray(p[...], np.float64) for p in (mixer.log_decay, mixer.log_phase, mixer.log_gain)
    )
    square, at = np.exp(-2 * np.exp(log_decay)), np.linspace(0, 1, 9)
    np.testing.assert_allclose(np.quantile(square, at), r_min**2 + (r_max**2 - r_min**2) * at, atol=0.015)
    assert r_min**2 <= square.min() + 1e-6 and square.max() <= r_max**2
    np.testing.assert_allclose(np.quantile(np.exp(log_phase), at), max_phase * at, atol=0.015 * max_phase)
    np.testing.assert_allclose(np.exp(2 * log_gain), 1 - square, rtol=1e-3)
    assert np.isfinite(log_decay).all() and np.isfinite(log_phase).all()


def test_what_is_drawn():
    mixer = LRU(512, 8, state=256, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(np.asarray(mixer.into[...]).std((0, 1)), (2 * 512) ** -0.5, rtol=0.02)
    out = np.asarray(mixer.out[...])
    assert out.shape == (2, 512, 256, 2)
    np.testing.assert_allclose(out.std((1, 2)), 256**-0.5, rtol=0.02)
    assert abs(np.corrcoef(out[0].ravel(), out[1].ravel())[0, 1]) < 0.02
    assert np.asarray(mixer.skip[...]).std() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(
    ("options", "scale"),
    [({}, 1.0), ({"r_min": 0.999, "r_max": 0.9999, "max_phase": np.pi / 10}, 0.61)],
    ids=["disc", "ring"],
)
def test_scale_of_what_comes_out_for_white_noise(options, scale):
    """One way, at width 128 and 1,024 positions, without D u: as γ is for. The ring is not yet stationary then."""
    x, mask = inputs(1024, 128, (1024, 1024))
    mixer = LRU(128, 1024, state=256, bidirectional=False, **options, rngs=nnx.Rngs(1))
    mixer.skip[...] = jnp.zeros(128)
    assert run(mixer, x, mask).std() == pytest.approx(scale, rel=0.1)


def test_parameters():
    mixer = LRU(8, 13, state=6, rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
    assert {name: array.shape for name, array in state.items()} == {
        "log_decay": (6,), "log_phase": (6,), "log_gain": (6,), "into": (6, 8, 2), "out": (2, 8, 6, 2), "skip": (8,),
    }  # fmt: skip
    assert {array.dtype for array in state.values()} == {jnp.dtype("float32")}
    roles = {"log_decay": "A", "log_phase": "A", "log_gain": "B", "into": "B", "out": "C", "skip": None}
    assert {name: getattr(mixer, name).get_metadata().get("role") for name in roles} == roles
    assert parameter_count("lru") == parameter_count("ff_only") + 4 * (3 * 64 + 3 * 256 * 64 * 2 + 256)


def test_padding_changes_nothing():
    assert padding_changes("lru") < 1e-5
    assert padding_changes("lru", bidirectional=False, pool="mean") < 1e-5


def test_errors():
    for wrong in ({"state": 0}, {"r_min": 1.0}, {"r_max": 1.5}, {"r_min": -0.1}, {"max_phase": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("lru", **wrong)

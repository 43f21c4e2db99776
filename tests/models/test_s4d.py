import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.state_space.s4d import S4D, initial_state
from tests.helpers.mixing import assert_equals, build, error, inputs, padding_changes, parameter_count, run
from tests.helpers.recurrences import pair, recur, recur_back, zeroed


def naive(mixer, x, mask, xp=jnp):
    """Sections 2 and 3 of the paper, one position after the other; h is [B, L, H, N]."""
    log_step, log_decay, frequency, into, out, skip = (
        p[...] if xp is jnp else np.asarray(p[...], np.float64)
        for p in (mixer.log_step, mixer.log_decay, mixer.frequency, mixer.into, mixer.out, mixer.skip)
    )
    copy = np.arange(len(skip)) % len(log_decay)
    a, b, c = (-xp.exp(log_decay) + 1j * frequency)[copy], pair(into)[copy], pair(out)
    step = xp.exp(log_step)[:, None]
    if mixer.discretization == "zoh":
        decay = xp.exp(step * a)
        b = (decay - 1) / a * b
    else:
        decay = (1 + step * a / 2) / (1 - step * a / 2)
        b = step / (1 - step * a / 2) * b
    u = zeroed(x, mask, xp)
    driven = b * u[..., None]
    y = 2 * (c[0] * recur(decay, driven, xp)).sum(-1).real + skip * u
    if len(c) == 2:  # what comes from the end is read from the next position's state
        h = recur_back(decay, driven, xp)[:, 1:]
        y += xp.pad(2 * (c[1] * h).sum(-1).real, ((0, 0), (0, 1), (0, 0)))
    return y.astype(x.dtype)


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": False}, {"discretization": "bilinear"}, {"n_ssm": 2}, {"n_ssm": 0, "bidirectional": False}],
    ids=str,
)
def test_equals_the_recurrence(options):
    x, mask = inputs()
    assert_equals(build("s4d", state=6, **options), naive, x, mask, tolerance=2e-5, rounded=0.01)


@pytest.mark.parametrize("init", ["lin", "inv", "legs", "real"])
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_equals_the_recurrence_in_double_precision_as_it_starts(init, discretization):
    """As long as states live; both levels of the kernel's powers have many entries, and the last is cut."""
    x, mask = inputs(301, 4, (301, 150))
    mixer = S4D(4, 301, init=init, discretization=discretization, rngs=nnx.Rngs(0))
    expected = naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)
    assert error(run(mixer, x, mask), expected) < 1e-5  # phases of float32, times the lag


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_short_inputs(length):
    x, mask = inputs(length, lengths=(length, 1))
    mixer = build("s4d", length, state=4)
    assert error(run(mixer, x, mask), naive(mixer, np.asarray(x, np.float64), np.asarray(mask), np)) < 1e-5


def test_a_small_step_loses_no_digits():
    """The kernel starts at C B̄, which for Δ = 10⁻⁴ is C Δ to four digits: e^{ΔA} − 1 in float32 would keep three."""
    mixer = S4D(4, 8, step_min=1e-4, step_max=1e-4, bidirectional=False, rngs=nnx.Rngs(0))
    a, b = initial_state("lin", 64)
    c = pair(np.asarray(mixer.out[...], np.float64))[0]
    step = np.exp(np.asarray(mixer.log_step[...], np.float64))[:, None]
    expected = 2 * (c * b * (np.exp(step * a) - 1) / a).real.sum(-1)
    assert error(mixer.kernels(8)[0, :, 0], expected) < 1e-6


def test_a_small_bilinear_step_loses_no_digits():
    mixer = S4D(2, 8, discretization="bilinear", step_min=1e-4, step_max=1e-4, bidirectional=False, rngs=nnx.Rngs(0))
    x, mask = np.ones((1, 4096, 2)), np.ones((1, 4096), bool)
    assert error(run(mixer, np.float32(x), mask), naive(mixer, x, mask, np)) < 5e-6


def test_states():
    """Section 4 of the paper, and figures of HiPPO-N's eigenvalues for 64 states: 0.26 to 1,303."""
    n = np.arange(32)
    for init, expected in {
        "lin": -0.5 + 1j * np.pi * n,
        "inv": -0.5 + 1j * (64 / np.pi) * (64 / (2 * n + 1) - 1),
        "real": -(n + 1.0),
    }.items():
        a, b = initial_state(init, 64)
        np.testing.assert_allclose(a, expected, rtol=1e-12)
        np.testing.assert_array_equal(b, np.ones(32))
    a, b = initial_state("legs", 64)
    np.testing.assert_allclose(a.real, -0.5)
    assert a.imag.min() == pytest.approx(0.264, abs=1e-3) and a.imag.max() == pytest.approx(1303.3, abs=0.1)
    assert np.abs(b.imag).max() == 2 and b.imag.min() == -2


def test_what_is_drawn():
    mixer = S4D(4096, 8, state=8, step_min=1e-3, step_max=0.1, rngs=nnx.Rngs(0))
    steps = np.asarray(mixer.log_step[...])
    quantiles = np.quantile(steps, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(quantiles, np.linspace(np.log(1e-3), np.log(0.1), 5), atol=0.1)
    out = np.asarray(mixer.out[...])
    assert out.shape == (2, 4096, 4, 2)
    np.testing.assert_allclose(out.std((1, 2)), 0.5**0.5, rtol=0.03)
    assert np.abs(np.corrcoef(out[0].ravel(), out[1].ravel())[0, 1]) < 0.02
    assert np.asarray(mixer.skip[...]).std() == pytest.approx(1, rel=0.05)
    assert np.exp(mixer.log_decay[...]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, 1.29),
        ({"bidirectional": False}, 0.92),
        ({"init": "inv"}, 1.38),
        ({"init": "legs"}, 1.76),
    ],
    ids=str,
)
def test_scale_of_what_comes_out_for_white_noise(options, scale):
    """At width 128 and 1,024 positions, without D u: as measured on the equations when this was written."""
    x, mask = inputs(1024, 128, (1024,))
    mixer = S4D(128, 1024, **options, rngs=nnx.Rngs(1))
    mixer.skip[...] = jnp.zeros(128)
    assert run(mixer, x, mask).std() == pytest.approx(scale, rel=0.15)


def test_parameters():
    mixer = S4D(8, 13, state=6, rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(mixer, nnx.Param))
    shapes = {name: array.shape for name, array in state.items()}
    assert shapes == {
        "log_step": (8,), "log_decay": (1, 3), "frequency": (1, 3), "into": (1, 3, 2), "out": (2, 8, 3, 2),
        "skip": (8,),
    }  # fmt: skip
    assert {array.dtype for array in state.values()} == {jnp.dtype("float32")}
    for n_ssm, copies in ((2, 2), (0, 8)):
        assert S4D(8, 13, state=6, n_ssm=n_ssm, rngs=nnx.Rngs(0)).into.shape == (copies, 3, 2)
    roles = {"log_step": "step", "log_decay": "A", "frequency": "A", "into": "B", "out": "C"}
    assert {n: getattr(mixer, n).get_metadata().get("role") for n in shapes} == roles | {"skip": None}
    assert parameter_count("s4d") == parameter_count("ff_only") + 4 * (256 + 3 * 32 + 32 + 2 * 256 * 32 * 2 + 256)


def test_padding_changes_nothing():
    assert padding_changes("s4d") < 1e-5
    assert padding_changes("s4d", bidirectional=False, pool="mean") < 1e-5


def test_the_kernel_needs_less_memory_than_its_powers():
    """[H, N, L] complex64 would be 64 MiB here; both kernels, float32 [2, H, L], are 4."""
    mixer = S4D(64, 8192, rngs=nnx.Rngs(0))
    graph, state = nnx.split(mixer)

    def loss(state):
        return (nnx.merge(graph, state).kernels(8192) ** 2).sum()

    temporary = jax.jit(jax.grad(loss)).lower(state).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 24 * 2**20


def test_errors():
    for wrong in (
        {"state": 5}, {"state": 0}, {"init": "hippo"}, {"discretization": "euler"}, {"n_ssm": 3}, {"n_ssm": -2},
        {"step_min": 0.0}, {"step_min": 0.2},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build("s4d", **wrong)

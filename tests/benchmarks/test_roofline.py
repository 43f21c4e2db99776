"""The roofline's bytes, against what a program plainly reads and writes, and the rows of its table."""

import jax
import jax.numpy as jnp
import pytest

from tests.benchmarks.roofline import Step, bytes_moved, rows, step_of


def moved(function, *shapes, dtype=jnp.bfloat16):
    return bytes_moved(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, dtype) for s in shapes)).jaxpr)


def test_a_product_reads_its_sides_and_writes_its_result_and_elementwise_work_is_free():
    product = 2 * (3 * 4 + 4 * 5 + 3 * 5)
    assert moved(lambda a, b: jnp.tanh(a @ b) + 1, (3, 4), (4, 5)) == product
    assert moved(jax.jit(lambda a, b: a @ b), (3, 4), (4, 5)) == product

    def looped(a, b):
        return jax.lax.scan(lambda carry, _: (carry, (a @ b).sum()), 0, None, length=7)[1]

    assert moved(looped, (3, 4), (4, 5)) == 7 * product


def test_the_furthest_from_its_floor_comes_first_and_what_is_not_measured_is_expected():
    device = "NVIDIA H200"
    steps = [Step("text", name, 8, 989.4e9, 0.0) for name in ("a", "b", "c")] + [Step("text", "d", 8, 0.0, 4.8e9)]
    assert [s.floor(device) for s in steps] == pytest.approx([1e-3] * 4)
    table = list(rows(steps, device, {("text", "a", 8): 2e-3, ("text", "b", 8): 4e-3}))
    assert [row[0] for row in table] == ["`b`", "`a`", "`c`", "`d`"]
    assert [row[4] for row in table] == ["products"] * 3 + ["bytes"]
    assert [row[5:] for row in table] == [["4", "25 %"], ["2", "50 %"], ["(2.67)", ""], ["(2.67)", ""]]


def test_a_step_of_the_zoo_is_traced_without_a_gpu():
    """At least each weight's product with each token, forwards and twice backwards."""
    for model, length in (("ff_only", 256), ("performer", 256)):
        step = step_of("text", model, length)
        products = 6 * 32 * length * 4 * 2 * 256 * 1024
        assert products < step.operations < 3 * products
        assert step.floor("NVIDIA H200") > 0

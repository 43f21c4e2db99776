"""A batch shared by four (virtual) devices gives the same losses as on one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import dataclasses, json
import jax
from tests.helpers.training import train, with_train

recipe = with_train(steps=12, eval_every=4)
batch_norm = dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, norm="batch"))
runs = {
    "one": train(recipe, (0, 5)),
    "four": train(recipe, (0, 5), devices=4),
    "streamed": train(recipe, (0, 5), devices=4, stream="on"),
    "parts": train(with_train(steps=12, eval_every=4, accumulate=2), (0, 5), devices=4),
    "bigbird": train(recipe, (0,), "bigbird"),
    "bigbird four": train(recipe, (0,), "bigbird", devices=4),
    "performer": train(recipe, (0,), "performer"),
    "performer four": train(recipe, (0,), "performer", devices=4),
    "batch norm": train(batch_norm, (0,)),
    "batch norm four": train(batch_norm, (0,), devices=4),
}
print(json.dumps({name: dataclasses.asdict(run) for name, run in runs.items()}))
"""


@pytest.mark.process
def test_four_devices_give_the_losses_of_one():
    # What runs for a second need not be optimised.
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    env = {"XLA_FLAGS": flags + " --xla_llvm_disable_expensive_passes=true", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout.splitlines()[-1])
    assert [runs[name]["devices"] for name in ("one", "four", "streamed", "parts")] == [1, 4, 4, 4]
    pairs = (("four", "one"), ("streamed", "one"), ("parts", "one"), ("bigbird four", "bigbird"))
    for name, against in (*pairs, ("performer four", "performer"), ("batch norm four", "batch norm")):
        for got, want in zip(runs[name]["results"], runs[against]["results"], strict=True):
            assert len(got["curve"]) == 3
            for a, b in zip(got["curve"], want["curve"], strict=True):
                assert a == pytest.approx(b, rel=1e-4), name
            assert got["test_best"] == pytest.approx(want["test_best"])
    assert runs["streamed"]["results"] == runs["four"]["results"]

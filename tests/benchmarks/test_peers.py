"""The comparison with PyTorch: equal logits on both sides, and how a side answers."""

import numpy as np
import pytest

from tests.benchmarks import peers
from tests.benchmarks.peer import Case, timed
from tests.benchmarks.peer_suite import Suite

TINY = {"dim": 8, "heads": 2, "layers": 2, "mlp": 12, "batch": 3, "length": 130}


@pytest.mark.slow
@pytest.mark.parametrize("model", peers.MODELS)
def test_both_sides_are_the_same_function(model, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install '.[peers]'")
    from tests.benchmarks.peer_torch import Peer

    case, file = Case(model, **TINY), tmp_path / "arrays.npz"
    ours = Suite(case, file, "")
    theirs = Peer(case, file, "eager")
    for _ in range(3):
        np.testing.assert_allclose(theirs.logits(), ours.logits(), atol=peers.TOLERANCE)
        ours.step()
        theirs.step()


def test_a_side_trains_on_the_batch_that_it_writes(tmp_path):
    side = Suite(Case("fnet", **TINY), tmp_path / "arrays.npz", "")
    with np.load(tmp_path / "arrays.npz") as arrays:
        assert arrays["batch.tokens"].shape == (3, 130) and arrays["batch.mask"].all()
        assert arrays["blocks.1.mlp.into.kernel"].shape == (8, 12)
    before = side.logits()
    assert len(side.time("train", 0)) == len(side.time("infer", 0)) == 1
    assert np.abs(side.logits() - before).max() > 1e-6


def test_a_turn_takes_at_least_one_run_that_counts():
    runs = []
    assert len(timed(lambda: runs.append(0), 0)) == 1 and len(runs) == 2


@pytest.mark.process
def test_a_process_tells_what_it_cannot_do():
    side = peers.Process("peer_suite")
    assert side.ask("about").startswith("jax ")
    with pytest.raises(peers.Failed, match="unknown model 'nothing'"):
        side.ask("make", case=Case("nothing", **TINY).__dict__, file="unused.npz", mode="")
    with pytest.raises(peers.Failed, match="KeyError"):
        side.ask("sing", given=())
    side.process.kill()
    with pytest.raises(peers.Failed, match="ended with status -9"):
        side.ask("about")
    side.close()


def test_a_row_gives_the_ratio_of_each_round():
    times = {"train": [(0.001, 0.002), (0.002, 0.002), (0.001, 0.003)], "infer": [(0.01, 0.005)]}
    assert peers.row("fnet | small | 512", times) == (
        "| fnet | small | 512 | 1 | 2 | **2.00** (1.00–3.00) | 10 | 5 | **0.50** (0.50–0.50) |"
    )

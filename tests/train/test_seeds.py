"""Orders of different seeds have nothing in common, in any epoch."""

import numpy as np

from lra.train.data import batch_indices


def test_no_epoch_of_a_seed_is_an_epoch_of_another():
    """A seed that were added to the number of the epoch would give seed 1 the order of seed 0, an epoch later."""
    orders = {
        (seed, epoch): batch_indices(np.int32(epoch), 100, 100, seed, np).tobytes()
        for seed in range(6)
        for epoch in range(6)
    }
    assert len(set(orders.values())) == 36

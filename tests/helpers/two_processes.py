"""Training in two processes that share each batch: `python -m tests.helpers.two_processes FOLDER PORT PROCESS`.

Prints the outcomes of some trainings, by name, as JSON.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import lra.train.loop
from lra.train import distributed
from tests.helpers import training
from tests.helpers.training import train, with_train

STEPS_OF_A_CHUNK = 2
RECIPE = with_train(steps=12, eval_every=4)


def session(folder, chunks=None):
    """Trains to the end, or for some chunks; with checkpoints where there is a folder for them."""
    outcome, warnings = training.session(folder, chunks, recipe=RECIPE, seeds=(0, 5))
    assert not warnings
    return outcome


def check_collectives(process):
    """What only process 0 has comes to all bit for bit, and random keys can be placed too."""
    shared = NamedSharding(Mesh(np.array(distributed.devices(1)), ("batch",)), PartitionSpec())
    like = distributed.put_replicated({"key": jax.random.key(3), "x": np.zeros(2, np.float32)}, shared)
    mine = {"key": jax.random.key(4), "x": np.array([-0.0, 1.5], np.float32)}
    arrays, progress = distributed.broadcast_checkpoint((mine, {"step": 7}) if process == 0 else None, like)
    assert np.asarray(arrays["x"]).tobytes() == mine["x"].tobytes() and progress == {"step": 7}
    assert jax.random.key_data(arrays["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()
    assert distributed.broadcast_checkpoint(None, like) is None and distributed.first_reason("late" * process) == "late"


def main(folder, port, process):
    distributed.join(f"127.0.0.1:{port}", 2, process, 1)
    check_collectives(process)
    lra.train.loop.chunk_length = lambda steps_between, flops, backend: STEPS_OF_A_CHUNK
    kept = Path(folder) if process == 0 else None
    runs = {
        "kept": train(RECIPE, (0, 5)),
        "streamed in parts": train(with_train(steps=12, eval_every=4, accumulate=2), (0, 5), stream="on"),
        "from one": session(kept and kept / "one"),
        "stopped": session(kept and kept / "two", 3 if process == 1 else None),
    }
    print(json.dumps({name: dataclasses.asdict(run) for name, run in runs.items()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""The quick protocol: evaluation takes little of a cell, and the cells that README shows stay what they are."""

import json

import pytest

from configs import PROTOCOLS
from configs.quick import QUICK
from lra.grid import expand
from lra.grid.cell import cell_key
from tasks import TASKS
from tests.helpers.cli import ROOT

COUNTS = {name: TASKS[name].counts for name in (*QUICK.tasks, *QUICK.variants)}
COUNTS |= {"listops_short": (96_000, 2_000, 2_000), "pathfinder_short": (160_000, 2_000, 5_000)}


@pytest.mark.parametrize("task", COUNTS)
def test_evaluation_takes_a_quarter_of_a_cell_at_most(task):
    """An evaluated example costs a third of a trained one; the test may be taken twice."""
    train = QUICK.recipe(task, "fnet").train
    sizes = train.evaluated(dict(zip(("train", "validation", "test"), COUNTS[task], strict=True)))
    evaluated = -(-train.steps // train.eval_every) * sizes["validation"] + 2 * sizes["test"]
    assert evaluated / 3 <= (train.steps * train.batch + evaluated / 3) / 4
    # 95 % of tests are right to within 2.2 points where half of the answers are.
    assert sizes["test"] >= 1.96**2 * 0.25 / 0.022**2


@pytest.mark.parametrize("task", ["listops_short", "pathfinder_short"])
def test_cells_of_tasks_that_evaluate_everything_keep_their_keys(task):
    """Against records from before samples: those that README shows among them."""
    files = sorted((ROOT / "results" / "cpu" / "records").glob(f"{task}-*.json"))
    records = [json.loads(file.read_text()) for file in files]
    kept = 0
    for record in records:
        cell = record["cell"]
        if cell["protocol"] != "quick" or record["overrides"]:
            continue
        settings = ["train.precision=float32"]
        (plan,) = expand.make_plans(PROTOCOLS["quick"], [task], [cell["model"]], [], cell["seeds"], settings)
        assert cell_key(plan, record["data"], cell["accelerator"], {}) == record["key"]
        kept += 1
    assert kept >= 2

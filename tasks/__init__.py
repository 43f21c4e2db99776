"""The tasks of the Long Range Arena, by name.

To add one, write its module, list it here and give it a recipe in `configs`.
"""

from tasks.examples import Examples, load
from tasks.image import IMAGE
from tasks.listops import LISTOPS, LISTOPS_SHORT
from tasks.mini.image import IMAGE_MINI
from tasks.mini.listops import LISTOPS_MINI
from tasks.mini.pathfinder import PATHFINDER_MINI
from tasks.mini.retrieval import RETRIEVAL_MINI
from tasks.mini.text import TEXT_MINI
from tasks.ordered_pair import ORDERED_PAIRS
from tasks.pathfinder.task import PATHFINDER_SHORT, PATHFINDERS
from tasks.retrieval import RETRIEVAL
from tasks.task import DataError, Dataset, Task
from tasks.text import TEXT

_MINI = (LISTOPS_MINI, TEXT_MINI, RETRIEVAL_MINI, IMAGE_MINI, PATHFINDER_MINI)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (LISTOPS, LISTOPS_SHORT, TEXT, RETRIEVAL, IMAGE, *PATHFINDERS, PATHFINDER_SHORT, *_MINI, *ORDERED_PAIRS)
}

PAPER = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
"""The six tasks of the paper, in its order."""

__all__ = ["PAPER", "TASKS", "DataError", "Dataset", "Examples", "Task", "load"]

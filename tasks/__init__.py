"""The tasks of the Long Range Arena, by name.

To add one, write its module, list it here and give it a recipe in `configs`.
"""

from tasks.image import IMAGE
from tasks.listops import LISTOPS, LISTOPS_SHORT
from tasks.pathfinder.task import PATHFINDER_SHORT, PATHFINDERS
from tasks.retrieval import RETRIEVAL
from tasks.task import DataError, Dataset, Task
from tasks.text import TEXT

TASKS: dict[str, Task] = {
    task.name: task for task in (LISTOPS, LISTOPS_SHORT, TEXT, RETRIEVAL, IMAGE, *PATHFINDERS, PATHFINDER_SHORT)
}

PAPER = ("listops", "text", "retrieval", "image", "pathfinder", "pathx")
"""The six tasks of the paper, in its order."""

__all__ = ["PAPER", "TASKS", "DataError", "Dataset", "Task"]

"""The tasks of the Long Range Arena, by name. Adding one: its module, its line here, its recipe in `configs`."""

from tasks.listops import LISTOPS, LISTOPS_SHORT
from tasks.task import DataError, Splits, Task

TASKS: dict[str, Task] = {task.name: task for task in (LISTOPS, LISTOPS_SHORT)}

__all__ = ["TASKS", "DataError", "Splits", "Task"]

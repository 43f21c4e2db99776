"""x"""

from lra.board import Board
from lra.records import Record


def page(a: Board, b: list[Record]) -> str:
    return ""

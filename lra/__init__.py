"""Runs the Long Range Arena: grids of cells, training, measuring, records and the leaderboard."""

__version__ = "0.1.0"

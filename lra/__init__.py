"""Runs the Long Range Arena: grids of cells, training, measuring, records and the leaderboard."""

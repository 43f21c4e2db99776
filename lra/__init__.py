"""The Long Range Arena suite's runner: grids, training, records and the leaderboard."""

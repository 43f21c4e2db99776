"""The grid: turns names on the command line into cells. Knows tasks, models and protocols by name."""

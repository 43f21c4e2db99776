"""What to run: from names on the command line to cells. Knows tasks, models and protocols by name."""

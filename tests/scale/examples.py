"""How many examples the tasks have. Imports no JAX."""

EXAMPLES = {
    "listops": (96_000, 2_000, 2_000), "text": (22_500, 2_500, 25_000), "retrieval": (147_086, 18_090, 17_437),
    "image": (45_000, 5_000, 10_000), "pathfinder": (160_000, 20_000, 20_000), "pathx": (160_000, 20_000, 20_000),
}  # fmt: skip
"""Training, validation and test examples, by the tasks' data cards."""

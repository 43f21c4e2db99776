"""Inside a worker: the only package of `lra` that imports JAX."""

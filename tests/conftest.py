"""Shared by all tests: JAX on the CPU, with its own compilation cache off so that every run is a fresh one."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

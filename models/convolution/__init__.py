"""Mixers by convolutions, short and long."""

"""Mixers that mix positions in the same way for every input, or not at all."""

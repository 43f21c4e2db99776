"""Mixers by linear recurrences of states, which decay and turn."""

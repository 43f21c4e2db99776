"""Pathfinder and Path-X: the tasks, and a fast reimplementation of the original picture generator."""

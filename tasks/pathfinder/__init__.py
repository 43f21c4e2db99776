"""Pathfinder and Path-X: pictures drawn as the original generator draws them."""

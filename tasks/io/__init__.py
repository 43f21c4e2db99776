"""Reads, verifies, caches and previews data."""

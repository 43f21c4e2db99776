"""Exponential moving averages with gated attention."""

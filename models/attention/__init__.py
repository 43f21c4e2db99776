"""Mixers by softmax attention: over all positions, over chosen ones, or with weights that are learnt."""

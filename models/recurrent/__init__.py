"""Linear attention and recurrences whose memory decays."""

"""The encoder around every mixer, and what mixers share."""

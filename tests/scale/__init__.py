"""The suite's cost at scale: the launcher simulated, a full grid estimated, a cell's memory and disk measured."""

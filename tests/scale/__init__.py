"""What the suite costs at scale: the launcher simulated, a full grid estimated, a cell's memory and disk measured."""

"""The long soak: a small grid whose processes are killed at random until enough kills have been injected."""

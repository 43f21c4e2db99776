"""The results folder. No other package knows its paths and file formats."""

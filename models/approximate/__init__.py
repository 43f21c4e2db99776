"""Mixers that make attention cheaper by low rank, kernels, landmarks or sampling."""

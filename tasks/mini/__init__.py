"""The tasks of the mini arena: small kin of the benchmark's, on which a cell takes minutes on two cores."""

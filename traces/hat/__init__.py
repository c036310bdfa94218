"""HAT's evidence: the paper's testbed, simulated."""

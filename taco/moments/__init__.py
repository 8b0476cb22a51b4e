"""Second moments of layers' inputs: unfolding, sampled positions, sums, asymmetric targets (METHOD.md 1)."""

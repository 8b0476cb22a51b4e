"""Layer-wise solvers: pure functions on (W, H). No nn.Module, no hooks, inputs not modified (METHOD.md 2-4)."""

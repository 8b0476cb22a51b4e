"""Which unit gets which level: the exact optimum under a budget, and the small searches around it (METHOD.md 7)."""

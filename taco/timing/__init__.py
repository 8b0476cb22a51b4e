"""Times from interleaved runs: how they are taken, what they say, and whether they were disturbed."""

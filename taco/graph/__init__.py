"""Which channels of a model belong together, how its attention is laid out, and which of its blocks may be left out."""

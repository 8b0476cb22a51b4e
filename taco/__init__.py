"""taco-export: few-shot, task-aware compression of vision models for the edge device you own, measured on it."""

__version__ = "0.1.0"

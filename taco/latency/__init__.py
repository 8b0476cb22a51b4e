"""Milliseconds of every unit at every width on one device, and what is decided with them (METHOD.md 7)."""

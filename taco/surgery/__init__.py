"""Physically smaller modules: which channels leave, how tensors are cut, how what stays makes up for it."""

"""Weights that are mostly zero: solved in the model's order, stored in few bytes, sent in few bytes."""

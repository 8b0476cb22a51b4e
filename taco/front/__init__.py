"""The front: several budgets from one table, measured beside everything a person would do instead."""

"""What `taco predict` says, and the forms in which it is written: one form a file, all from the same answers."""

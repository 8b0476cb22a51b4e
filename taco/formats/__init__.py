"""The forms in which pictures and their labels come: one form a file, all of them give the same rows."""

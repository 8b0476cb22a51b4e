"""The dense specialist: the generalist's head cut, kept or fitted for the task, and a light fine-tune."""

"""Parts of a run that happen on devices: benchmarks, answers from there, fleets, and the folder carried to one."""

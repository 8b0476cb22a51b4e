"""Numbers that a person judges by: accuracy with its uncertainty, parity, gates, abstention, energy. Numpy only."""

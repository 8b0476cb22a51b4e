"""Pictures: listed, known, grouped, divided among learning and judging, and decoded once into a bank."""

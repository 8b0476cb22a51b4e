"""How a run finds widths: one ratio or unit by unit; by measured time, by MACs, or as far as accuracy allows."""

"""From a finished run to the parts of its `report.json`."""

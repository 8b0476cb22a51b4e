"""Exporters: one file each, found by name through `taco.exporters.loading`."""

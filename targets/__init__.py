"""Targets: one TOML file a device, read by `taco.targets.loading`."""

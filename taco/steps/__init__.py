"""The steps that `taco.pipeline` composes, each stored under the hash of what it depends on (docs/adr/0006)."""

"""Known picture sets, one TOML file each: what is in them, under which licence, where to get them, how they load."""

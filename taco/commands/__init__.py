"""The command line beside `taco.cli`: flags, requests, what is printed, and the commands with sub-commands."""

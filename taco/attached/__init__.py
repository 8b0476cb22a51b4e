"""The host's side of devices: programs, OpenSSH, the agent's file and calls, leases, several devices at once."""

"""Contract suites that our own and third-party plug-ins subclass."""

"""The report: one page a person reads and forwards, the same as Markdown and JSON."""

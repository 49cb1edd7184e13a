"""Subcommands of `ecgtwin-fast`, one a file; each has add_to(commands)."""

"""The commands of the command line, a module each: `flags` and `run`. The table: `cli`."""

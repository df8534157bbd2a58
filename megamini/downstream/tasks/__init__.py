"""The tasks, one small declaration each, and the registry that finds them by name."""

"""The tasks: a new one is a small declaration in here, and an entry in the registry, which finds them by name."""

"""Tasks by name: a new one is a declaration in a file of its format, and an entry in registry.py."""

"""A run that hangs, is signalled, diverges or has a second process: what notices it, and what ends it."""

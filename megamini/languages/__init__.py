"""Language codes, and words of running text."""

"""Language packs: written, read, checked, plugged into a model."""

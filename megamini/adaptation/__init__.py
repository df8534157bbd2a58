"""Adding a language on one device: starting points, relearning, language packs."""

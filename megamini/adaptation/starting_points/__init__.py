"""Where a new language's embeddings start: random, overlap, FOCUS, a word list."""

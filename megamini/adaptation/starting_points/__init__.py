"""How a new language's embeddings are initialised: random, overlap, FOCUS, subwords, word list, parallel text."""

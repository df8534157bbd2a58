"""megamini: pretrain masked language models so that adding a language afterwards costs a fraction."""

"""Zero-shot evaluation: what is measured, in which language, and what it is held against."""

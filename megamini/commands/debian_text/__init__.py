"""Real parallel text from Debian's packages, read as an ordinary user. The entry point is tools/fetch_text.py."""

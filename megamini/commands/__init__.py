"""What `megamini COMMAND`, `launch/` and `tools/` run: each file reads its arguments and hands over."""

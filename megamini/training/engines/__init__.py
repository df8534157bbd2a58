"""Engines of the loop: the interface, plain PyTorch, DeepSpeed with its configuration, ZeRO and swap files."""

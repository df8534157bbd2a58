"""The sections of `tools/gpu_check.py`: each proves one thing on a GPU, row by row."""

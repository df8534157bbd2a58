"""The three kinds of task: how examples become inputs, and outputs a score."""

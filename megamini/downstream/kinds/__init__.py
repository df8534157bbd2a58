"""The three kinds of task (classes, tags, questions): how examples become inputs, and outputs a score."""

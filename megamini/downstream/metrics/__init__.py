"""Scores: accuracy and F1 of classes, tags and answers."""

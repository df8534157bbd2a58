"""Checkpoints: written, listed, found; which of them a run resumes, and with which recipe it was trained."""

"""Fine-tuning of the primary model on tasks in its source language."""

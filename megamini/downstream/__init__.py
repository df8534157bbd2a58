"""Steps 3 and 4 of the method: tasks, fine-tuning in the source language, zero-shot evaluation in every other."""

"""Files of task data, read row by row into examples."""

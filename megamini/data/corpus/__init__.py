"""Documents from files and data sets."""

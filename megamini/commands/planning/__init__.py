"""What tools/plan.py computes: memory, time and communication of a recipe on a cluster."""

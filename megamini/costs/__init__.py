"""What training costs: the shape of a model, FLOPs, memory; each formula with its source."""

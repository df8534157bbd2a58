"""What a checkpoint holds: parameters, the optimizer's moments and momentum, and where the run stands."""

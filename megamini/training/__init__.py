"""The training loop and what it drives: state, schedule, engines, checkpoints, telemetry."""

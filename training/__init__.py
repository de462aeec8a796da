"""Dataset preparation and trainers, run as ``python -m limelight.training.<name>``."""

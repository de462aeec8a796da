"""Networks and checkpoint formats."""

"""The tables: effect, cost, parity. Run as ``python dev.py bench NAME``."""

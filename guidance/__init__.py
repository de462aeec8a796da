"""The mathematics: regions, targets, attention capture, losses, the guided step. Knows no node."""

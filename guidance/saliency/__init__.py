"""Saliency maps: made, shown, measured."""

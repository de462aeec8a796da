"""Shapeworld: synthetic scenes of coloured shapes, and a tiny latent diffusion model trained on them.

Every object's place can be read off the pixels, so that the effect of guidance is a number. Development only:
nothing in this folder ships with the node pack.
"""

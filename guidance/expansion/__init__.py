"""Salient objects: a subject that is kept while everything around it is made anew."""

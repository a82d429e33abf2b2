"""Judges data: a script of the same name per experiment; ends in a verdict that can fail. Plots, never trains."""

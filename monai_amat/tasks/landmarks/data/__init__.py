"""Cephalograms, their landmarks and their splits."""

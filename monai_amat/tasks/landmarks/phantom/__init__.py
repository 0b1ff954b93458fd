"""Synthetic cephalograms: the folder, and the picture of one head."""

"""Decathlon folders as slices."""

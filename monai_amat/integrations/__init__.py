"""Adversarial training inside the training loops of other packages."""

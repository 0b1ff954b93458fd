"""The losses of detection: one value per sample and term."""

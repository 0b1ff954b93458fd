"""Dictionary transforms of volumes and slices."""

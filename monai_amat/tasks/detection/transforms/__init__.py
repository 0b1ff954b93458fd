"""Dictionary transforms of images with boxes."""

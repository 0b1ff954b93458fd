"""Dictionary transforms of radiographs and landmarks."""

"""The network of landmarks, its encoder, and how its maps are decoded to points."""

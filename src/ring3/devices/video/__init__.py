"""Video chips: the VGA with the Bochs extension, and what a screen sees of them."""

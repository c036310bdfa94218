"""HAT on the device: the ends of a split model, and the states that travel between them."""

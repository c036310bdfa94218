"""HAT on the device: the U-shaped split, in which tokens stay here and hidden states travel."""

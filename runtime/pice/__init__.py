"""PICE on the device: sketches of the cloud, expanded in parts at the edge."""

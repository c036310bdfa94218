"""HAT: what is recorded of the split model and measured of it, and the testbed of its paper."""

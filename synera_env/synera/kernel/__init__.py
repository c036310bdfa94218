"""The replay of many answers at once, compiled: the session, the device and the cloud of the scalar environment over arrays."""

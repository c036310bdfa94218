"""The bundled task set: a generated world, its wordings and its vocabulary."""

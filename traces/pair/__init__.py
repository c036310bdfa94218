"""The bundled pair: its recipe and its model card."""

"""The embedded engine: the model core behind a batcher with a thread of its own."""

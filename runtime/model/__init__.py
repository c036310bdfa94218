"""The model core: decoder with layer ranges, caches, exits, checkpoints, tokenizers. It knows no system."""

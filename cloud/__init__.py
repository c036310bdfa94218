"""The verifier: the LLM behind gRPC, its sessions, batches and engines."""

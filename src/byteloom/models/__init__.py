"""Token ids to logits: transformers models."""

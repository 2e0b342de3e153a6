"""Tool calls in the format that a model writes."""

"""Beginnings of prompts that are kept: found in the KV cache, moved to memory and to files, brought back."""

"""From a Hugging Face folder to GGUF: weights, configuration, vocabulary, adapters."""

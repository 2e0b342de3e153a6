"""Variants for ONNX Runtime: exported, quantized and measured in a child process."""

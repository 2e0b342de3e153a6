"""The second engine: ONNX Runtime, for encoders and decoders that optimum exported."""

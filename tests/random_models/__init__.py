"""Random models: whole graphs of operators that nobody thought of together, against ONNX Runtime."""

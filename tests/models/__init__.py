"""Whole real models, judged against ONNX Runtime."""

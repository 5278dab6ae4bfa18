"""ONNX's official backend suite, run through loopnest."""

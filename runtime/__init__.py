"""What a deployment needs: programs as data, machine code linked and run natively, worker threads, the callable of a user.

Imports neither Numba nor onnx nor the compiler.
"""

"""What the readers of PyTorch, Keras and ONNX models share: the network under construction, how tensors lie in it."""

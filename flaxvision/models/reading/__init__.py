"""What the readers of Keras and ONNX models share: the network under construction, arithmetic, the comparison."""

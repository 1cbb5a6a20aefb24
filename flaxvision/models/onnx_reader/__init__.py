"""Reads ONNX files of other programs: constants are folded, and one walk over the nodes makes a network of them."""

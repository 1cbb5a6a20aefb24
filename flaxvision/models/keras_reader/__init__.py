"""Reads Keras models: one walk over the calls of their layers, in the order of the graph, makes a network of them."""

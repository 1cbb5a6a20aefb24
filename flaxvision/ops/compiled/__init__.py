"""Convolutions in C++ for CPUs, compiled on the machine that uses them; `ops.winograd` and others are their twins."""

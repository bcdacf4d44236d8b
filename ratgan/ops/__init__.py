"""Operators: own convolution, folding, precision, memory format."""

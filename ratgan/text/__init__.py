"""Text encoders behind one interface, and the transform of their sentence vectors."""

"""From originals to a prepared dataset."""

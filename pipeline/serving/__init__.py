"""A model → pictures for whoever asks: an HTTP API and a page."""

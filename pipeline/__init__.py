"""The Ray layer around `ratgan`: prepare, train, track, generate."""

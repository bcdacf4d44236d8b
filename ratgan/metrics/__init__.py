"""Numbers that say how good generated images are."""

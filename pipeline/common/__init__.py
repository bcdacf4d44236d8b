"""Used by all packages; imports none of them."""

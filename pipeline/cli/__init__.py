"""Commands: flags, and errors as a person sees them."""

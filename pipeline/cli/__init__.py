"""Commands: flags, and error messages for users."""

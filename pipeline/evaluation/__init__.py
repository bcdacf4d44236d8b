"""How good is a model? Images drawn for captions, features, numbers, each with its protocol."""

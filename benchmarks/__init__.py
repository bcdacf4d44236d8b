"""What a step costs, against a reference in the same run."""

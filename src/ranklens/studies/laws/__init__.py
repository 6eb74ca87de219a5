"""Studies of the laws: where gradient descent goes, one law for three factorizations, and where it fails."""

"""Studies of hierarchical tensor factorization."""

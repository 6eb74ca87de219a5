"""Studies of tensor factorization (CP)."""

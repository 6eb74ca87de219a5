"""Studies of layers of neural networks."""

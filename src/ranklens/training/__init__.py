"""Training of neural networks: a plain loop, one that resumes, and small networks to train."""

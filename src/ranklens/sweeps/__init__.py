"""Sweeps: a function or a study at many settings, run by several processes or machines, and the store of the runs."""

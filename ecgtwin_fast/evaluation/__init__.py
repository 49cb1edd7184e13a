"""How good generated ECGs are: one metric a file, in plain NumPy, SciPy and PyTorch, and one report of them all."""

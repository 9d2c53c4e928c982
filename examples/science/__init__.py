"""What `examples/figures.py` is made of: one file each for data, networks, training, and so on."""

"""A ReLU and a max run in the kernel of the blur behind them."""

"""The blurs of other packages, and what they compute."""

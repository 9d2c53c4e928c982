"""What feeds what in a model, as far as it can be traced."""

"""Where blurs go in a model, and how they get there and out again."""

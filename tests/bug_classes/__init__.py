"""Bugs that other libraries had, as tests on every backend; README.md lists them."""

"""docs/trust.md: what was run to find faults in fastblur, and what it found."""

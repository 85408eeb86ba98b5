"""Weight files of other software: one module a format, and what they have in common."""

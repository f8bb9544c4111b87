"""Intel's compute runtime for the declared cards, and the proof that it finds them."""

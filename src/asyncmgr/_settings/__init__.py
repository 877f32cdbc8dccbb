"""What may be set without code: the model, the places it is read from, and words for what is wrong."""

"""The copies of models that a web process predicts from."""

"""Implicit Transferability Modeling: which pre-trained vision model to fine-tune on your images."""

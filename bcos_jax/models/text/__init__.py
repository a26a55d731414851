"""Architectures that read text: encoders, decoders, and towers beside those of images."""

"""Convolutional networks for small devices and of searched designs, and the first deep ones."""

"""What runs ON the device: standard library, numpy, Pillow and one runtime; Python 3.8 syntax. One zipapp."""

"""Rate-distortion training of neural codecs: crops, optimiser, the loop, and freezing into integer models."""

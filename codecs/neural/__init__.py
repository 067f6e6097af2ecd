"""Neural codecs: one file per paper, networks in training and integer networks in use."""

"""Codecs that exist without us: JPEG, JPEG 2000, WebP and AVIF by Pillow, HEVC intra by PyAV."""

"""Frame sources: the generated street world, data sets on disk and video files."""

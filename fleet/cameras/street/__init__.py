"""The generated street world, rendered by panda3d's software renderer."""

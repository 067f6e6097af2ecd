"""`roadbits train`: from the words of a recipe to weights, in a folder that can stop and go on."""

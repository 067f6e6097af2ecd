"""What the server does with the frames: semantic segmentation, trained and measured on the train x test setups."""

"""What is wrong with the image files of a data set, and which flags fit them."""

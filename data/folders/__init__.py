"""What the commands in datasets/ do to folders of images."""

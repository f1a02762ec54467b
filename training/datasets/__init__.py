"""Lists of public data sets and of folders of images, and a small data set of drawn faces."""

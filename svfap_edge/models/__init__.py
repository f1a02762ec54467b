"""The models that ship in the package: each folder is a bundle."""

"""From a checkpoint to a bundle that runs on small computers."""

import os

# NNCF tells its makers over the network that it was used, unless this is set before its import.
os.environ.setdefault("NNCF_CI", "1")

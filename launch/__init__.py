"""How a pod, a cluster or this machine runs the training; see README.md."""

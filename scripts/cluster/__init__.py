"""Runs in Kubernetes: the cluster, its images, and what of a trial is made by pods."""

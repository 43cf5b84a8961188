"""The networks: trunks, heads, the classifier, the segmenters, and how they lie on disk."""

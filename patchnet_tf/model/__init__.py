"""S, G and their heatmaps: the layers and models of the paper."""

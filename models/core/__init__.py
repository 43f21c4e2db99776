"""The encoder around every mixer, and the layers and attention kernels that mixers share."""

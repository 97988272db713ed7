"""Facts of CIFAR-10 (Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny Images")."""

IMAGE_SIZE = 32  # pixels a side

# In label order; the source's `batches.meta`.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Mean and standard deviation of R, G and B over all pixels of the 50,000 training images, scaled to
# [0, 1]. The widespread std (0.2023, 0.1994, 0.2010) is the mean of the per-image stds instead.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

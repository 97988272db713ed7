"""Networks from images to logits."""

# Class by the name that configs/model/ and `Classifier` have for a network.
NETWORKS = {
    "convnet": "cifar10.models.convnet.ConvNet",
    "airnet": "cifar10.models.airnet.AirNet",
    "resnet18": "cifar10.models.resnet.ResNet18",
}

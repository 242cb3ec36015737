"Small networks for teaching, of torch layers alone"
from torch import nn

__all__ = ['small_cnn']

def small_cnn(
    n_out:int,          # Number of classes
    n_in:int=1,         # Channels of the images
    width:int=32,       # Channels of every convolution
    *,
    norm:str|None='bn', # 'bn', 'gn' (GroupNorm, 8 groups) or None
    depth:int=4         # Convolutions; each of the first four halves the image
):
    "A plain convolutional net of torch layers only, for 28-64 px images: learns in a minute on a CPU"
    norms = dict(bn=lambda: nn.BatchNorm2d(width), gn=lambda: nn.GroupNorm(8, width))
    if norm not in (None, *norms):
        raise ValueError(f"`norm` must be 'bn', 'gn' or None, got {norm!r}.")
    layers:list[nn.Module] = []
    for i in range(depth):
        c_in = width if i else n_in
        stride = 2 if i < 4 else 1
        layers.append(nn.Conv2d(c_in, width, 3, stride=stride, padding=1, bias=norm is None))
        if norm: layers.append(norms[norm]())
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_out))

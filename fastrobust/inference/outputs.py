"What a network says about images: logits, the features its last layer saw, labels; and that last layer"
from typing import NamedTuple
from torch import Tensor

__all__ = ['Outputs', 'LinearHead']

class Outputs(NamedTuple):
    "Of n images, on the CPU"
    z:Tensor        # Raw logits float32 (n,c)
    f:Tensor = None # Features float32 (n,d) that the last linear layer turns into `z`; None: it has none
    y:Tensor = None # Labels int64 (n,); None: not known, as of unknown images

class LinearHead(NamedTuple):
    "The last linear layer: z = f W' + b"
    W:Tensor        # float32 (c,d)
    b:Tensor        # float32 (c,); zeros for a layer without bias

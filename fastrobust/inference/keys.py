"Digests by which results are known to be of the same network, images and settings; nothing is kept but the digests"
import hashlib, re
from pathlib import Path
import numpy as np
import torch
from torch import Tensor
from fastai.callback.fp16 import MixedPrecision
from fastrobust import __version__
from fastrobust.pixels import pixel_space

__all__ = []

# --- the network ----------------------------------------------------------------------------------
def _hash(size, data=b''):
    return hashlib.blake2b(data, digest_size=size)

def _bytes(v):
    "Those of an entry of a state dict"
    if not isinstance(v, Tensor): return repr(v).encode()
    v = v.detach().cpu().contiguous().reshape(-1)
    return v.view(torch.uint8).numpy().tobytes()

def model_key(learn):
    "Digest of the network, its weights, what normalises its images and its precision: another model has another"
    h = _hash(12)
    px = pixel_space(learn.dls)
    norm = [o for o in (px.mean, px.std) if o is not None]
    norm = [o.flatten().tolist() for o in norm]
    amp = [str(cb.amp_mode) for cb in learn.cbs if isinstance(cb, MixedPrecision)]
    # without addresses in memory
    layers = re.sub('0x[0-9a-f]+', '', repr(learn.model))
    facts = __version__,amp,norm,layers
    h.update(repr(facts).encode())
    for k,v in learn.model.state_dict().items():
        h.update(k.encode())
        h.update(_bytes(v))
    return h.hexdigest()

def activation_key(learn):
    "What the loss's activation makes of a few logits: another temperature is another learner, as its confidence is"
    act = getattr(learn.loss_func, 'activation', None)
    c = getattr(learn.dls, 'c', 0) or 2
    z = torch.linspace(-3, 3, max(2, c))
    if not callable(act): return None
    try:
        p = act(z[None]).flatten().tolist()
        return [round(v, 6) for v in p]
    except Exception:
        return 'not for logits'       # its report takes the softmax

def files_key(folder):
    "Names, sizes and times of the files of published corruptions"
    paths = sorted(Path(folder).iterdir())
    stats = [(p.name, p.stat()) for p in paths]
    return [(k, s.st_size, s.st_mtime_ns) for k,s in stats]

def net_mark(model):
    "A number that changes when the network is trained on"
    return sum(p.detach().double().sum().item() for p in model.parameters())

# --- the images -----------------------------------------------------------------------------------
def pixels_key(o):
    "Digests of the arrays and tensors in `o`, at any depth: one that was changed in place has another"
    if isinstance(o, dict): return [pixels_key(v) for v in o.values()]
    if isinstance(o, (list, tuple)): return [pixels_key(v) for v in o]
    if isinstance(o, np.ndarray): return _hash(12, np.ascontiguousarray(o).tobytes()).hexdigest()
    if isinstance(o, Tensor): return _hash(12, _bytes(o)).hexdigest()
    return ''

class Peek:
    "A `change` that changes nothing and remembers the size of the images and a digest of their pixels"
    def __init__(self):
        self.h = _hash(12)
        self.shape = None

    def __call__(self, x, ids):
        self.shape = tuple(x.shape[1:])
        px = (x*255).round().to(torch.uint8)
        self.h.update(px.cpu().numpy().tobytes())
        return x

    @property
    def key(self): return self.h.hexdigest()

class Seen:
    "What the images of a set were: the shape the network gets, and a digest of each one's pixels before Normalize"
    def __init__(self):
        self.images = []
        self.shape = None

    def add(self, px):
        if px.is_floating_point():
            px = (px*255).round_().clamp_(-32768, 32767)
        for o in px.to(torch.int16).cpu().numpy():
            self.images.append(_hash(16, o.tobytes()).digest())

    @property
    def key(self):
        return _hash(8, b''.join(self.images)).hexdigest()

def digest(*parts):
    return _hash(12, repr(parts).encode()).hexdigest()

"Digests by which results are known to be of the same network, images and settings; nothing is kept but the digests"
import hashlib, re
from pathlib import Path
import torch
from torch import Tensor
from fastai.callback.fp16 import MixedPrecision
from fastrobust import __version__
from fastrobust.pixels import pixel_space

__all__ = []

# --- the network ----------------------------------------------------------------------------------
def model_key(learn):
    "Digest of the network, its weights, what normalises its images and its precision: another model has another"
    h,px = hashlib.blake2b(digest_size=12),pixel_space(learn.dls)
    norm = [o.flatten().tolist() for o in (px.mean, px.std) if o is not None]
    amp = [str(cb.amp_mode) for cb in learn.cbs if isinstance(cb, MixedPrecision)]
    h.update(repr((__version__, amp, norm, re.sub('0x[0-9a-f]+', '', repr(learn.model)))).encode())
    for k,v in learn.model.state_dict().items():
        h.update(k.encode())
        v = v.detach().cpu().contiguous().reshape(-1) if isinstance(v, Tensor) else v
        h.update(v.view(torch.uint8).numpy().tobytes() if isinstance(v, Tensor) else repr(v).encode())
    return h.hexdigest()

def activation_key(learn):
    "What the loss's activation makes of a few logits: another temperature is another learner, as its confidence is"
    act,z = getattr(learn.loss_func, 'activation', None),torch.linspace(-3, 3, max(2, getattr(learn.dls, 'c', 0) or 2))
    try: return [round(v, 6) for v in act(z[None]).flatten().tolist()] if callable(act) else None
    except Exception: return 'not for logits'       # its report takes the softmax

def files_key(folder):
    "Names, sizes and times of the files of published corruptions"
    stats = [(p.name, p.stat()) for p in sorted(Path(folder).iterdir())]
    return [(k, s.st_size, s.st_mtime_ns) for k,s in stats]

def net_mark(model):
    "A number that changes when the network is trained on"
    return sum(p.detach().double().sum().item() for p in model.parameters())

# --- the images -----------------------------------------------------------------------------------
class Peek:
    "A `change` that changes nothing and remembers the size of the images and a digest of their pixels"
    def __init__(self): self.h,self.shape = hashlib.blake2b(digest_size=12),None
    def __call__(self, x, ids):
        self.shape = tuple(x.shape[1:])
        self.h.update((x*255).round().to(torch.uint8).cpu().numpy().tobytes())
        return x
    @property
    def key(self): return self.h.hexdigest()

class Seen:
    "What the images of a set were: the shape the network gets, and a digest of each one's pixels before Normalize"
    def __init__(self): self.images,self.shape = [],None
    def add(self, px):
        a = (px*255).round_().clamp_(-32768, 32767) if px.is_floating_point() else px
        self.images += [hashlib.blake2b(o.tobytes(), digest_size=16).digest() for o in a.to(torch.int16).cpu().numpy()]
    @property
    def key(self): return hashlib.blake2b(b''.join(self.images), digest_size=8).hexdigest()

def digest(*parts): return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()

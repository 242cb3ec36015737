"Policies with a memory: an LSTM goes over the features of a clip's frames, whoever computes these"
# Wei, Wang, Yan, AstFocus, https://arxiv.org/abs/2301.00896
# No dropout: with it the policy that is evaluated would not be the one that acted.
import math
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from fastrobust.basics import shown
from fastrobust.resting import at_rest

__all__ = []

WIDTH = 64      # of the memory; AstFocus takes 512, for features of 1,280
SIDE = 4        # cells along each side of a feature map that are kept
GAIN = .01      # of the layer that gives the logits, which so start near where they are told to

# --- features -------------------------------------------------------------------------------------
class PoolEncoder(nn.Module):
    "Frames (t,c,h,w) -> (t,c,4,4), means over cells: nothing to train, nothing to download"
    def forward(self, x): return cells(x)

def cells(
    x   # Maps (t,c,h,w)
)->Tensor: # (t,c,4,4), or as many cells as there are pixels
    "Means over a grid of cells"
    h,w = x.shape[-2:]
    return F.adaptive_avg_pool2d(x, (min(SIDE, h), min(SIDE, w)))

def need_encoder(
    encoder # nn.Module, or None for `PoolEncoder`
):          # nn.Module
    "Refuse what is no network"
    if encoder is None: return PoolEncoder()
    if isinstance(encoder, nn.Module): return encoder
    raise TypeError(f"expected `encoder` to be a network (nn.Module) of frames (t,c,h,w), got "
                    f"{shown(encoder)}. Give one such as create_body(resnet18()), or None: means over cells.")

def channels_of(
    encoder # nn.Module
):          # Channels of its first convolution, None without one
    "What it takes"
    convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    return convs[0].in_channels if convs else None

def encode(
    encoder,    # nn.Module: frames (t,c,h,w) in [0,1] -> (t,d) or (t,d,h',w'); frozen
    clip        # (c,t,h,w) in [0,1]
)->Tensor:      # float32 (t,d) on the CPU
    "Features of each frame; of maps the means of cells. Greys are given three times to a network of RGB"
    x = clip.detach().transpose(0, 1)
    if len(clip) == 1 and channels_of(encoder) == 3: x = x.expand(-1, 3, -1, -1)
    p = next(encoder.parameters(), None)
    if p is not None: x = x.to(p.device, p.dtype)
    with at_rest(encoder): f = encoder(x)
    if not isinstance(f, Tensor) or f.ndim not in (2, 4) or len(f) != len(x):
        n,got = len(x),tuple(f.shape) if isinstance(f, Tensor) else shown(f)
        raise ValueError(f"expected an `encoder` of {n} frames to give ({n},d) or ({n},d,h,w), got {got}. "
                         "Take its body, without what comes after.")
    if f.ndim == 4: f = cells(f)
    f = f.flatten(1).float().cpu()
    if f.isfinite().all(): return f
    raise ValueError("expected an `encoder` of finite features, got others. If it wants normalised "
                     "pixels, put a layer that normalises those in [0,1] before it, in a Sequential.")

def scaled(
    feats   # (t,d)
):          # Of the same shape
    "By one mean and deviation of the clip, so that any encoder's features suit a layer"
    return (feats-feats.mean())/(feats.std(correction=0)+1e-6)

# --- networks whose weights come from a generator -------------------------------------------------
def reset(
    net,    # Its parameters are not yet set
    gen     # torch.Generator on the CPU
):          # `net`
    "Uniform within 1/sqrt(fan-in), in an LSTM 1/sqrt(width), as torch does; no global stream is used"
    for m in net.modules():
        if isinstance(m, nn.Linear): k = m.in_features
        elif isinstance(m, (nn.LSTM, nn.LSTMCell)): k = m.hidden_size
        else: continue
        with torch.no_grad():
            for p in m.parameters(): p.uniform_(-k**-.5, k**-.5, generator=gen)
    return net

def made(
    make,   # Function that makes a network
    gen     # torch.Generator on the CPU
):          # The network, on the CPU
    "Without drawing from a global stream"
    with torch.device('meta'): net = make()
    return reset(net.to_empty(device='cpu'), gen)

def places(
    t,      # Frames
    d       # Numbers of each
)->Tensor:  # (t,d)
    "Sines and cosines of the position, as in https://arxiv.org/abs/1706.03762, 3.5"
    at = torch.arange(t)[:, None]
    rate = torch.exp(-math.log(10000.)*torch.arange(0, d, 2)/d)
    return torch.stack([(at*rate).sin(), (at*rate).cos()], -1).flatten(1)[:, :d]

class Recurrent(nn.Module):
    "What both policies share: a layer on the features, a layer for the logits, one for the value"
    def __init__(self, d, n_out, width):
        super().__init__()
        self.look = nn.Linear(d, width)
        self.logits = nn.Linear(width, n_out)
        self.value = nn.Linear(width, 1)

    def groups(self, lr): return [{'params': list(self.parameters()), 'lr': lr}]

    def begin(self, start):
        "Logits start near `start`"
        with torch.no_grad():
            self.logits.weight.mul_(GAIN)
            self.logits.bias.fill_(start)
        return self

class BoxLSTM(Recurrent):
    "Features (t,d) -> logits (t,k) of the boxes, values (t,): one LSTM over the frames"
    def __init__(self,
        d,          # Numbers of a frame
        k,          # Boxes
        width=WIDTH # Of the memory
    ):
        super().__init__(d, k, width)
        self.lstm = nn.LSTM(width, width)

    def forward(self, feats):
        h,_ = self.lstm(self.look(scaled(feats)).relu())
        return self.logits(h),self.value(h)[:, 0]

class FrameLSTM(Recurrent):
    "Features (t,d) -> logits (t,) of the frames, values (t,): each step attends to the whole clip"
    def __init__(self,
        d,          # Numbers of a frame
        width=WIDTH # Of the memory
    ):
        super().__init__(d, 1, width)
        self.ask = nn.Linear(width, width)
        self.cell = nn.LSTMCell(2*width, width)

    def forward(self, feats):
        f = self.look(scaled(feats)).relu()
        keys = f + places(*f.shape)
        h = c = f.new_zeros(1, f.shape[1])
        out = []
        for i in range(len(f)):
            attention = (self.ask(h) @ keys.T * f.shape[1]**-.5).softmax(-1)
            h,c = self.cell(torch.cat([f[i:i+1], attention @ f], 1), (h, c))
            out.append(h)
        h = torch.cat(out)
        return self.logits(h)[:, 0],self.value(h)[:, 0]

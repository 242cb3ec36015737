"Auxiliary classifiers on the inner features of any convolutional network, found by where its grid shrinks"
from collections import Counter
from functools import partial
from typing import NamedTuple
import torch
from torch import nn
from fastrobust.pixels import some_batch
from fastrobust.resting import at_rest, keep_random
from fastrobust.training.surgery import AuxOut, Surgery, wrap_each

__all__ = []

class GridStage(NamedTuple):
    "Where a network has its last features of one grid: the output of a module"
    name:str     # Of the module, as in `named_modules`
    # Which of its calls in one forward pass, from 0: some networks use one ReLU everywhere
    call:int
    channels:int
    grid:tuple   # (height, width)

    @property
    def area(self): return self.grid[0]*self.grid[1]

# --- stages ---------------------------------------------------------------------------------------
class _Call(NamedTuple):
    "One call of a module in a forward pass; `stage` is None where its output is no feature map (bs,c,h,w)"
    stage:object
    area_in:float
    conv:bool       # whether it holds a convolution
    inside:list     # calls within

def _is_map(o): return isinstance(o, torch.Tensor) and o.ndim == 4

def _trace(net, xb):
    "What `net` returns for `xb`, and that call with all calls inside; eval mode, nothing of the network changes"
    names = {m: k for k,m in net.named_modules()}
    done = Counter()
    open_calls = [[]]
    hooks = []

    def enter(_m, _args): open_calls.append([])

    def leave(m, args, out):
        inside = open_calls.pop()
        stage,area_in = None,float('inf')
        if _is_map(out): stage = GridStage(names[m], done[m], out.shape[1], tuple(out.shape[2:]))
        if args and _is_map(args[0]): area_in = args[0].shape[2]*args[0].shape[3]
        conv = any(p.ndim == 4 for p in m.parameters())
        open_calls[-1].append(_Call(stage, area_in, conv, inside))
        done[m] += 1

    try:
        for m in names:
            hooks += [m.register_forward_pre_hook(enter), m.register_forward_hook(leave)]
        with at_rest(net): z = net(*xb)
    finally:
        for h in hooks: h.remove()
    return z,open_calls[0][0]

def _areas(call):
    found = []
    for k in call.inside:
        if k.stage: found.append(k.stage.area)
        found += _areas(k)
    return found

def _steps(call):
    "The largest modules within which the grid takes no value between those of input and output, as (stage, conv)"
    s = call.stage
    if s and not any(s.area < a < call.area_in for a in _areas(call)): return [(s, call.conv)]
    found = []
    for k in call.inside: found += _steps(k)
    if s: found.append((s, False))
    return found

def _pooling(steps):
    "Position of the first step to one pixel that pools over the whole image; where none does, their number"
    for i in range(1, len(steps)):
        stage,conv = steps[i]
        before = steps[i-1][0].area
        if stage.area == 1 < before and (before > 4 or not conv): return i
    return len(steps)

def _stages(call):
    steps = _steps(call)
    # no squeeze-and-excite, no U
    steps = [(s, conv) for i,(s,conv) in enumerate(steps)
             if all(later.area <= s.area for later,_ in steps[i:])]
    # global pooling ends the features
    steps = steps[:_pooling(steps)]
    # and so does the last convolution
    convs = [i for i,(_,conv) in enumerate(steps) if conv]
    if not convs: return []
    last = convs[-1]
    grid = steps[last][0].grid
    stages = [s for i,(s,_) in enumerate(steps) if i <= last or s.grid == grid]

    # at least twice the area of the next: an unpadded convolution opens no stage
    found = []
    for s in reversed(stages):
        if not found or s.area >= 2*found[-1].area: found.append(s)
    return found[::-1]

def find_stages(
    net,    # A convolutional network
    *xb     # Its input: a batch of images (bs,c,h,w) as it sees them in training
) -> list:
    "The last features of each grid (`GridStage`), fine to coarse: the layer1 .. layer4 of a ResNet, whatever the names"
    return _stages(_trace(net, xb)[1])

# --- heads ----------------------------------------------------------------------------------------
def aux_head(
    c_in:int,       # Channels of the features it reads
    c_out:int,      # Channels of the network's last stage
    n_out:int,      # Number of classes
    *,
    k=2,            # Grid of the features over that of the last stage: int or (height, width)
    norm=nn.BatchNorm2d # Makes a normalisation layer from a number of channels
):
    "Bottleneck classifier: 1x1, k x k with stride k onto the last stage's grid, 1x1, mean over the grid, linear"
    # a quarter as in the authors' code; not below 16 in small networks
    m = max(c_out//4, min(c_out, 16))
    layers = []
    for i,o,ks in ((c_in, m, 1), (m, m, k), (m, c_out, 1)):
        layers += [nn.Conv2d(i, o, ks, stride=ks), norm(o), nn.ReLU(inplace=True)]
    head = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_out, n_out))
    for l in head:
        if isinstance(l, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(l.weight)
            nn.init.zeros_(l.bias)      # type: ignore[arg-type]  # all have one
    return head

class AuxHeads(Surgery):
    "A network with auxiliary heads: `AuxOut` in training; in evaluation (main + last auxiliary logits)/2, or main ones"
    def __init__(self,
        net,                # A convolutional network that returns logits (bs,c)
        *xb,                # A batch as it sees them, to find the stages by
        predict='main+aux', # 'main+aux', or 'main': what it returns in evaluation
        n_heads=3           # Heads at most, those next to the last stage: 3 for the four stages of a ResNet
    ):
        super().__init__()
        z,call = _trace(net, xb)
        stages = _stages(call)
        is_logits = isinstance(z, torch.Tensor) and z.ndim == 2
        if len(stages) < 2 or not is_logits:
            raise ValueError(_NO_GRID + f"{type(net).__name__} with feature maps of "
                             f"{[s.grid for s in stages]} and an output of shape "
                             f"{tuple(getattr(z, 'shape', ()))}." + _REMEDY)
        *inner,last = stages
        inner = inner[-n_heads:]
        bn = nn.modules.batchnorm._BatchNorm
        has_bn = any(isinstance(m, bn) for m in net.modules())
        # who does without batch statistics still does
        norm = nn.BatchNorm2d if has_bn else partial(nn.GroupNorm, 1)

        heads = nn.ModuleList()
        for s in inner:
            k = tuple(max(1, a//b) for a,b in zip(s.grid, last.grid))
            heads.append(aux_head(s.channels, last.channels, z.shape[1], k=k, norm=norm))
        self.net = net
        self.heads = heads.to(z.device)
        self.predict = predict
        self.taps = [(s.name, s.call) for s in inner]

    @property
    def plain(self): return self.predict == 'main'

    def groups(self, split):
        "The heads join the last group: what `freeze` leaves trainable is the real head and these"
        *body,head = [list(g) for g in split(self.net)]
        head = head + list(self.heads.parameters())
        return [*body, head]

    def _run(self, xb, taps):
        "Logits of the network and the features at `taps`; the hooks last as long as the forward pass, no copy has them"
        seen = {name: [] for name,_ in taps}
        hooks = []
        try:
            for name,outs in seen.items():
                def keep(_m, _args, out, outs=outs): outs.append(out)
                module = self.net.get_submodule(name)
                hooks.append(module.register_forward_hook(keep))
            z = self.net(*xb)
        finally:
            for h in hooks: h.remove()
        return z,[seen[name][call] for name,call in taps]

    def forward(self, *xb):
        if not self.training and self.plain: return self.net(*xb)
        n = len(self.taps) if self.training else 1
        z,feats = self._run(xb, self.taps[-n:])
        aux = tuple(head(f) for head,f in zip(self.heads[-n:], feats))
        if self.training: return AuxOut(z, aux)
        # the average of the authors' code
        return (z + aux[-1])/2

# --- installation ---------------------------------------------------------------------------------
_NO_GRID = ("expected a convolutional net whose grid shrinks, to put auxiliary heads between its "
            "stages, got ")
_REMEDY = (" Use a ResNet or another image network (nn.Conv2d), or a technique without such heads, "
           "such as ELR.")

def _two_rows(dls):
    "The first two items of a batch"
    b = some_batch(dls)
    n_inp = getattr(dls, 'n_inp', max(1, len(b)-1))
    return [x[:2].as_subclass(torch.Tensor) for x in b[:n_inp]]

def _like(x, p):
    "`x` on the device of the parameter `p`, and in its precision unless it holds whole numbers"
    if x.is_floating_point(): return x.to(p.device, p.dtype)
    return x.to(p.device)

def add_aux_heads(
    model,              # A network, or two of them (`nets`), which get their own heads each
    dls,                # The DataLoaders it is for: one batch of them shows the grids
    *,
    predict='main+aux', # As in `AuxHeads`
    n_heads=3           # As in `AuxHeads`
):
    "`model` with auxiliary heads; random streams stay where they are"
    if not any(isinstance(m, nn.Conv2d) for m in model.modules()):
        got = f"{type(model).__name__} without convolution over images."
        raise ValueError(_NO_GRID + got + _REMEDY)
    p = next(model.parameters())
    with keep_random():
        xb = [_like(x, p) for x in _two_rows(dls)]
        return wrap_each(model, lambda net: AuxHeads(net, *xb, predict=predict, n_heads=n_heads))

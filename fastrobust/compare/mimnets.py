"Networks of a study of TinyMIM: teachers, students by function or by name, and what classifies with them"
import inspect, math
from torch import nn
from torchvision.ops import StochasticDepth
from fastai.learner import Learner
from fastrobust.basics import shown
from fastrobust.pixels import item_shape
from fastrobust.resting import keep_random
from fastrobust.systems.tinymim.distilling import plain_net
from fastrobust.systems.tinymim.inside import Unlabelled
from fastrobust.systems.tinymim.learner import MIMLearner
from fastrobust.systems.tinymim.probe import Pooled
from fastrobust.systems.tinymim.teachers import need_stats, set_drop_path, vit_arch, vit_of
from fastrobust.systems.tinymim.tinyvit import TinyViT, tiny_vit
from fastrobust.systems.tinymim.vits import INSTEAD, ViT

__all__ = []

# Of a student by name, the paper's
DROP_PATH = .1

def teacher_of(what, dls):
    "The network of a teacher, by name or as it is"
    if not isinstance(what, str): return plain_net(what)
    c,h,w = item_shape(dls)
    arch = vit_arch(what, (h, w), c)
    need_stats(arch, dls, 'batch_tfms=Normalize.from_stats({}, {}) in `dls`')
    return arch.net

def closed(
    net,    # A teacher
    part    # 'blocks', or 'attention' too, without which there is no classifier of it
):
    "Why it cannot be looked into, None where it can"
    try:
        vit = ViT(net, 'a teacher')
        if part == 'attention': vit.attention(-1)
    except ValueError as e: return str(e).replace(INSTEAD, '').strip()
    return None

def _by_name(name, dls, drop_path):
    c,h,w = item_shape(dls)
    net = vit_of(name, (h, w), c, pretrained=False)
    set_drop_path(net, DROP_PATH if drop_path is None else drop_path)
    if drop_path and not any(isinstance(m, StochasticDepth) for m in net.modules()):
        raise ValueError(f"expected a student of timm's for a row with drop_path, got {name!r}, whose blocks skip no "
                         "image. Take a name of timm's, or a function with a parameter `drop_path`.")
    return net

def smaller(
    teacher,    # A `tiny_vit`
    share,      # Of its width and depth, in (0,1)
    role='student', # What it is for
    drop_path=None # Of the new one; None: none
):
    "A new `tiny_vit` like another, of a share of its width and depth; the teacher's heads divide its width too"
    if not isinstance(teacher, TinyViT):
        got = 'no teacher' if teacher is None else type(teacher).__name__
        raise ValueError(f"expected `{role}` as a function that makes a network, or a name of timm's, got None: that "
                         f"is for a teacher by `tiny_vit`, got {got}. Say {role}='vit_tiny_patch16_224'.")
    heads = teacher.blocks[0].attn.num_heads
    step = math.lcm(4, heads)
    dim = max(step, round(teacher.dim*share/step)*step)
    depth = max(1, round(len(teacher.blocks)*share))
    own = max(1, heads//2) if share <= .5 else heads
    channels = teacher.patch_embed.in_channels
    return tiny_vit(teacher.size, teacher.patch, dim, depth, own, channels, drop_path=drop_path or 0.)

def _called(make, role, drop_path):
    if drop_path is None: return make()
    if 'drop_path' in inspect.signature(make).parameters: return make(drop_path=drop_path)
    raise ValueError(f"expected `{role}` as a function with a parameter `drop_path` for such a row, got one without. "
                     f"Say {role}=lambda drop_path=0.: tiny_vit(.., drop_path=drop_path).")

def maker_of(
    what,       # Function -> a network, name of timm's or torchvision's, or None
    role,       # 'student' or 'middle'
    dls,        # DataLoaders, for the size of the images
    teacher,    # A network
    drop_path=None # Of the student; None: as it is made
):
    "Function -> a new network of a study"
    if what is None: return lambda: smaller(teacher, .75 if role == 'middle' else .5, role, drop_path)
    if isinstance(what, str): return lambda: _by_name(what, dls, drop_path)
    if not callable(what) or isinstance(what, (nn.Module, Learner)):
        raise TypeError(f"expected `{role}` as a function that makes a new network each time, got {shown(what)}. Say "
                        f"{role}=lambda: tiny_vit(..).")
    return lambda: _called(what, role, drop_path)

def need_net(make):
    "A network; refuse a function that makes none, before anything trains"
    with keep_random(): net = make()
    if isinstance(net, nn.Module): return net
    raise TypeError(f"expected `student` as a function that makes a network, got one that makes {shown(net)}. Say "
                    "student=lambda: tiny_vit(..).")

def need_layers(net, layers, who):
    "Refuse tokens to probe that a network does not have"
    vit = ViT(net, who)
    for k in layers: Pooled(vit, k, 'mean')

def need_blocks(
    nets,   # name of a network -> the network
    block,  # Position that a row takes of each; None: the usual
    row     # Its name
):
    "Refuse a block that is too deep for one of them"
    if block is None: return
    try:
        for who,net in nets.items(): ViT(net, who).at(block)
    except ValueError as e: raise ValueError(f"row {row!r}: {e}") from e

def untrained(dls, net):
    "A `MIMLearner` of a network that no technique trains, for its `to_classifier`"
    return MIMLearner(dls, net, Unlabelled())

"The weights that a learner's body began from: those of its architecture, by the names that they have in the learner"
from torch import nn
from fastai.vision.learner import (TimmBody, create_body, create_timm_model, create_vision_model,
                                   model_meta, _default_meta)
from fastrobust.inference.anyarch import needs_body
from fastrobust.inference.archs import build_arch
from fastrobust.inference.bodies import body_of
from fastrobust.inference.pretrained import arch_name, is_file
from fastrobust.pixels import peek_images
from fastrobust.resting import keep_random

__all__ = []

def _channels(body):
    "Of the images that a network takes"
    return next((m.in_channels for m in body.modules() if isinstance(m, nn.Conv2d)), 3)

def _from_file(arch, n_in, file):
    "The body that fastai cuts out of `arch`, with the weights of a file"
    a = build_arch(arch, n_in, weights=file)
    names = {id(v): k for k,v in a.net.state_dict(keep_vars=True).items()}
    if isinstance(arch, str): body = TimmBody(a.net)
    else: body = create_body(a.net, cut=model_meta.get(arch, _default_meta)['cut'])
    mine = [names.get(id(v), '') for v in body.state_dict(keep_vars=True).values()]
    odd = [k for k in a.odd if k in mine]
    if not odd: return body
    raise ValueError(f"expected a file with the weights of {a.name}, got one in which {len(odd)} are "
                     f"missing or of another shape: {', '.join(odd[:3])}. Give the state_dict of that "
                     "architecture, or of this learner as `base`.")

def _whole(learn, arch, weights):
    "The body that `body_learner` makes"
    x = peek_images(learn.dls) if len(learn.dls.train_ds) else None
    if x is None:
        raise ValueError(f"expected a learner with images, by which {arch_name(arch)} is cut, got one "
                         "without. Give its weights before fine-tuning as `base`.")
    return body_of(arch, x, weights=weights).net

def _body(learn, arch, weights):
    "What `robust_learner` and `vision_learner` make of `arch`, without a head"
    n_in = _channels(learn.model)
    if needs_body(arch): return _whole(learn, arch, weights)
    none = nn.Identity()
    try:
        if is_file(weights): return _from_file(arch, n_in, weights)
        if isinstance(arch, str): return create_timm_model(arch, 1, n_in=n_in, custom_head=none)[0][0]
        return create_vision_model(arch, 1, weights=weights, n_in=n_in, custom_head=none)[0]
    except (StopIteration, AssertionError): return _whole(learn, arch, weights)

def pretrained_state(
    learn,          # A Learner of `vision_learner` or `robust_learner` on an architecture; it stays as it is
    # Member or name of a torchvision function's weights, or the path of a state_dict (.pt, .pth);
    # None: those that fastai loads
    weights=None
)->dict:
    "Names in `learn.model` -> pretrained weights of its body, which is the first of two parts"
    arch = vars(learn).get('arch')
    if arch is None or isinstance(arch, nn.Module):
        raise ValueError("expected a learner that vision_learner or robust_learner made of an "
                         f"architecture, whose weights are known, got one of a {type(learn.model).__name__}. "
                         "Give the weights before fine-tuning as `base`: a copy of the network, or the "
                         "file that `learn.save` wrote.")
    if weights is None and not vars(learn).get('pretrained', True):
        raise ValueError("expected a learner that began from pretrained weights, got pretrained=False. "
                         "Give the weights that it began from as `base`.")
    try:
        with keep_random(): body = _body(learn, arch, weights)
    except KeyError as e:
        raise ValueError(f"expected `weights` of {arch_name(arch)} by their name in torchvision, or the path of a "
                         f".pt or .pth file, got {weights!r}.") from e
    except OSError as e:
        if is_file(weights): raise
        name = arch_name(arch) if callable(arch) else arch
        raise OSError(f"expected the pretrained weights of {name}, got {type(e).__name__}: "
                      f"{str(e).strip('. ')}. Without the internet: a file with its state_dict, "
                      f"weights='{name}.pth', or `base`.") from e
    return {f'0.{k}': v for k,v in body.state_dict().items()}

"The network of an audit: pretrained, of torchvision, timm or a file; or a small one from scratch"
from pathlib import Path
import torch, torchvision
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.learner import create_body, model_meta, vision_learner, _default_meta
from fastrobust.basics import nearest, robust_warn
from fastrobust.inference.bodies import body_of
from fastrobust.labels.crossval import FORGIVING
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn

__all__ = []

DEFAULT = 'resnet18'
SCRATCH,PLAIN = 'small','plain'     # No names of networks
SMALL = dict(lr=3e-3, side=64)      # From scratch: learning rate, largest images
BODY  = dict(side=128)              # Pretrained: size of the images

def _arch(name):
    "Architecture of that name: a function of torchvision, or a name timm knows"
    own = torchvision.models.list_models(torchvision.models)
    if name in own: return getattr(torchvision.models, name)
    try: import timm
    except ImportError: known = []
    else: known = timm.list_models()
    # 'resnet18.a1_in1k' says which of timm's weights
    if name.split('.')[0] in known: return name
    hint = nearest(name, sorted({PLAIN, SCRATCH, *own, *known})).split('Known')[0]
    without = '' if known else ' (timm is not installed)'
    raise ValueError(f"expected --arch plain, small, a network of torchvision or of timm{without}, "
                     f"got {name!r}. {hint}For example: resnet18, mobilenet_v3_small.")

def _load(file):
    try: sd = torch.load(file, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"expected weights, got {str(file)!r}, which does not "
                                "exist.") from None
    # torch raises pickle, zip and runtime errors for what is no state dict
    except Exception as e:
        raise ValueError(f"expected a state dict saved by torch.save in {str(file)!r} "
                         f"({type(e).__name__}). Save `model.state_dict()` of the "
                         "architecture.") from e
    if isinstance(sd, dict): sd = sd.get('state_dict', sd.get('model', sd))
    if not isinstance(sd, dict) or not all(isinstance(v, torch.Tensor) for v in sd.values()):
        raise ValueError(f"expected a state dict (name -> tensor) in {str(file)!r}, got something "
                         "else. Save `model.state_dict()`.")
    return sd

def _into(net, sd, name, file):
    "Load `sd`, the classifier's last layer aside"
    own = net.state_dict()
    fits = {k: v for k,v in sd.items() if k in own and own[k].shape == v.shape}
    lack = [k for k in own if k not in fits]
    if len(lack) > 4:
        raise ValueError(f"expected weights of {name} in {str(file)!r}, got a file without "
                         f"{len(lack)} of its {len(own)} tensors, e.g. {lack[0]!r}. Name the "
                         "architecture they are of: --arch.")
    net.load_state_dict(fits, strict=False)

def _body(arch, name, file):
    "What a new learner's body gets: the weights of `file` in the shape fastai gives the network"
    if isinstance(arch, str):
        import timm
        net = timm.create_model(arch, pretrained=False, num_classes=0)
        _into(net, _load(file), name, file)
        return {f'model.{k}': v for k,v in net.state_dict().items()}
    net = arch(weights=None)
    _into(net, _load(file), name, file)
    cut = model_meta.get(arch, _default_meta)['cut']
    return create_body(net, cut=cut).state_dict()

def _not_had(net, name, arch, instead):
    "Why the pretrained weights cannot be had, None: they can; refused where they were asked for by name"
    try: _pretrained(net)
    except (OSError, RuntimeError, ValueError) as e:
        why = f"the weights of {name} could not be had ({type(e).__name__}: no network?)"
        if arch is None: return why
        raise OSError(f"{why}. Give a file of them, --weights {name}.pth, or use --arch {instead}.") from e
    return None

def need_network(arch, weights):
    "Refuse unknown names and files that hold no weights, before any image is read"
    if arch not in (PLAIN, SCRATCH): _arch(arch or DEFAULT)
    if weights is not None: _load(weights)

# --- frozen ---------------------------------------------------------------------------------------
def _checked_body(net, weights, size):
    "`Body` of an architecture whose weights are there; refused where it does not fit"
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try: return body_of(net, x, weights=weights)
    except ValueError as e:
        fix = f"For other pixels than these {size}: --size."
        if str(e).startswith('expected a file'):
            fix = f"Name the architecture that {str(weights)!r} is of: --arch."
        raise ValueError(f"{e} {fix}") from e

def frozen_body(
    arch,       # Name; None: pretrained resnet18, 'plain' where its weights cannot be had
    weights,    # File with a state dict, or None
    size        # Pixels that the body will see
):
    "(`Body` or 'plain', None or a sentence: what could not be had, and what would help)"
    if arch == PLAIN: return PLAIN,None
    name = arch or DEFAULT
    net = _arch(name)
    if weights is not None: return _checked_body(net, Path(weights), size),None
    why = _not_had(net, name, arch, 'plain, which needs none')
    if why is None: return _checked_body(net, None, size),None
    return PLAIN,(f"{why}, so gradients and colours judge in its place, which see less. What "
                  f"would help: --weights {name}.pth, its state_dict from a machine with network.")

# --- trained --------------------------------------------------------------------------------------
def learner_maker(arch, weights):
    "(function dls -> learner, what it is in words, None or 'small' if it had to be that one)"
    scratch = 'a network of four convolutions, trained from scratch'
    if arch == SCRATCH: return _small,scratch,True
    name = arch or DEFAULT
    net = _arch(name)

    if weights is not None:
        body = _body(net, name, weights)
        def local(dls):
            learn = vision_learner(dls, net, pretrained=False, normalize=False)
            learn.model[0].load_state_dict(body)
            learn.freeze()
            return learn
        return local,f'{name} with the weights of {Path(weights).name}, fine-tuned',False

    why = _not_had(net, name, arch, 'small')
    if why is not None:
        robust_warn(f"{why}: {scratch} takes its place, which sees less. Better: --weights "
                    f"{name}.pth.")
        what = f'{scratch} ({name} pretrained would see more, its weights could not be had)'
        return _small,what,True
    pretrained = lambda dls: vision_learner(dls, net, normalize=False)
    return pretrained,f'{name}, pretrained, fine-tuned',False

def _small(dls):
    n_in = dls.train_ds.items.x.shape[1]
    loss = GCELoss() if dls.c <= FORGIVING else CrossEntropyLossFlat()
    return Learner(dls, small_cnn(dls.c, n_in), loss_func=loss, lr=SMALL['lr'])

def _pretrained(net):
    "Find out at the door whether the weights can be had; they stay in torch's cache"
    if isinstance(net, str):
        import timm
        return timm.create_model(net, pretrained=True)
    return net(weights='DEFAULT')

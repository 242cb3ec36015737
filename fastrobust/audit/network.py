"The network of an audit: small from scratch, or a pretrained body with weights from torchvision, timm or a file"
import inspect
from pathlib import Path
import torch, torchvision
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.learner import create_body, model_meta, vision_learner, _default_meta
from fastrobust.basics import nearest, robust_warn
from fastrobust.losses import GCELoss
from fastrobust.nets import small_cnn

__all__ = []

DEFAULT = 'resnet18'
# From scratch: learning rate, largest images; 150 steps at least
SMALL = dict(lr=3e-3, side=64, epochs=(8, 20))
BODY  = dict(epochs=4, side=128)    # Pretrained: epochs of `fine_tune`, size of the images
# Classes up to which GCE learns fast enough; it keeps folds from learning errors
FORGIVING = 20

def _arch(name):
    "Architecture of that name: a function of torchvision, or a name timm knows"
    f = getattr(torchvision.models, name, None)
    if inspect.isfunction(f): return f
    try: import timm
    except ImportError: known = []
    else: known = timm.list_models()
    if name in known: return name
    both = ['small', *torchvision.models.list_models(torchvision.models), *known]
    hint = nearest(name, both).split('Known')[0]
    raise ValueError(f"expected --arch small, a network of torchvision or of timm, got {name!r}. "
                     f"{hint}For example: resnet18, mobilenet_v3_small.")

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

def learner_maker(arch, weights):
    "(function dls -> learner, what it is in words, None or 'small' if it had to be that one)"
    scratch = 'a network of four convolutions, trained from scratch'
    if arch == 'small': return _small,scratch,True
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

    try: _pretrained(net)
    except (OSError, RuntimeError, ValueError) as e:
        why = f"the weights of {name} could not be had ({type(e).__name__}: no network?)"
        if arch is not None:
            raise OSError(f"{why}. Give a file of them, --weights {name}.pth, or use --arch "
                          "small.") from e
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
    "Find out before the folds whether the weights can be had; they stay in torch's cache"
    if isinstance(net, str):
        import timm
        return timm.create_model(net, pretrained=True)
    return net(weights='DEFAULT')

"`video_learner`: a fastai learner of clips on torchvision's networks or yours; it predicts files"
from pathlib import Path
import torch
from torch import Tensor
from fastai.callback import progress, schedule  # noqa: F401 (give Learner no_bar and fine_tune)
from fastai.data.transforms import get_c
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastrobust.basics import need_whole, shown, target_vocab
from fastrobust.pixels import is_normalize, peek
from fastrobust.resting import at_rest
from fastrobust.systems.video.block import OpenVideo
from fastrobust.systems.video.networks import video_arch
from fastrobust.systems.video.tfms import NormalizeVideo
from fastrobust.systems.video.videoarrays import as_clip
from fastrobust.training.checks import check
from fastrobust.training.technique import Technique

__all__ = ['video_learner']

class HeadSplit:
    "A splitter: parameters of the body, and of the head"
    def __init__(self,
        head    # Name of the last layer
    ): self.head = head

    def __call__(self, model):
        head = list(model.get_submodule(self.head).parameters())
        mine = {id(p) for p in head}
        body = [p for p in model.parameters() if id(p) not in mine]
        return [body, head] if body else [head]

class VideoLearner(Learner):
    "A learner of clips; `predict` takes a file, a folder of frames or a clip"
    def predict(self,
        # Path of a video or of a folder of frames; or a clip (t,c,h,w), NumPy's (t,h,w,c), of uint8
        # or floats in [0,1], which are not rounded: an attacked clip is judged as it is
        item,
        clips=3     # Clips of a path, spread over its length; in memory it is one. 3: our choice
    ):              # (class, its code, probabilities (k,), their deviation over clips, NaN of one)
        "The class of a video by the mean of several of its clips, and how far these disagree"
        parts = _parts(self.dls, item, need_whole('clips', clips, 1))
        dl = self.dls.test_dl(parts, bs=min(len(parts), self.dls.bs), num_workers=0)
        with self.no_bar(): p = self.get_preds(dl=dl)[0]
        p = p.as_subclass(Tensor)
        mean = p.mean(0)
        spread = p.std(0) if len(p) > 1 else torch.full_like(mean, torch.nan)
        code = mean.argmax()
        vocab = getattr(self.dls, 'vocab', None)
        return code if vocab is None else target_vocab(self.dls)[code],code,mean,spread

def _parts(dls, item, k):
    "What to ask about `item`: `k` clips of a path, read as those of the dls, or the clip itself"
    if not isinstance(item, (str, Path)): return [as_clip(item)]
    fs = [f for tl in getattr(dls.train_ds, 'tls', ()) for f in tl.tfms.fs]
    reader = next((f for f in fs if isinstance(f, OpenVideo)), None)
    if reader is not None: return reader.several(item, k)
    raise ValueError(f"expected a clip, got the path {str(item)!r}: these dls hold arrays and do "
                     "not say how to read files. Read it as they were read: "
                     "learn.predict(read_clip(path, n=16)).")

# --- do data and network fit ----------------------------------------------------------------------
def _need_clips(dls):
    "A batch of clips (b,c,t,h,w), as the network gets them"
    if not hasattr(dls, 'loaders'):
        raise TypeError(f"expected DataLoaders, got {shown(dls)}. The data come first: "
                        "video_learner(video_dls('folder'), 'r3d_18').")
    x = peek(dls)
    if isinstance(x, (list, tuple)): x = x[0]
    if isinstance(x, Tensor) and x.ndim == 5 and x.is_floating_point(): return x.as_subclass(Tensor)
    got = f'{x.dtype} {tuple(x.shape)}' if isinstance(x, Tensor) else shown(x)
    raise TypeError("expected DataLoaders whose first input is a batch of clips, floats "
                    f"(b,c,t,h,w) with channels before frames, got {got}. Make some with video_dls, or with "
                    "FloatVideo and ChannelsFirst among the batch_tfms.")

def _n_out(dls, n_out):
    if n_out is not None: return need_whole('n_out', n_out, 1, what='outputs')
    c = get_c(dls)
    if c: return c
    raise ValueError("expected the number of classes from the dls, got none. Give n_out, or set "
                     "`dls.c`.")

def _need_answer(a, x, n_out):
    "Refuse a network that makes no row of `n_out` numbers of one clip"
    x = x[:1].to(next(a.net.parameters(), x).device)
    try:
        with at_rest(a.net): z = a.net(x)
    except Exception as e:
        fix = a.sizes or "Give longer or larger ones, or another network."
        raise ValueError(f"expected clips that {a.name} can take, got (c,t,h,w) "
                         f"{tuple(x.shape[1:])}: {type(e).__name__}, {str(e).strip('. ')}. "
                         f"{fix}") from e
    if isinstance(z, Tensor) and z.shape == (1, n_out): return
    got = tuple(z.shape) if isinstance(z, Tensor) else shown(z)
    raise ValueError(f"expected a row of {n_out} outputs for each clip from {a.name}, got {got} "
                     f"for one. Build it for {n_out}, or give n_out.")

def _normalise(dls, stats):
    "Add Normalize with the statistics of trained weights, if `dls` have none"
    if stats is None or any(is_normalize(t) for t in dls.train.after_batch.fs): return
    t = NormalizeVideo.from_stats(*stats)
    dls.add_tfms([t], 'after_batch')

def _as_loss(dls, loss_func):
    "The given loss, else that of the data, else cross-entropy"
    if loss_func is not None: return loss_func
    own = getattr(dls.train_ds, 'loss_func', None)
    return CrossEntropyLossFlat() if own is None else own

def video_learner(
    dls,                # DataLoaders of clips (b,c,t,h,w), as of `video_dls`, `moving_shapes_dls`
    # 'tiny_c3d'; a name or function of torchvision.models.video: 'r3d_18', 'mc3_18', 'r2plus1d_18',
    # 's3d', 'mvit_v2_s', 'swin3d_t' ..; a function of yours that may take `n_out` and `channels`;
    # or an nn.Module, which stays as it is
    arch,
    *,
    pretrained=False,   # With torchvision's weights of Kinetics-400, which it downloads?
    # Which: 'DEFAULT', a member or name of torchvision's, or the path of a state_dict (.pt, .pth)
    weights=None,
    n_out=None,         # Outputs; None: the classes of `dls`
    loss_func=None,     # Loss; None: that of `dls`, else cross-entropy
    metrics=accuracy,   # As in any Learner
    cbs=None,           # Callbacks and techniques, such as LogitNorm()
    **kwargs            # More for Learner
)->VideoLearner:
    """A Learner of clips, to assess the robustness of one's own models

    From random weights train with `fit_one_cycle`, from trained ones with `fine_tune`: their last
    layer stays if it has as many outputs; else it is new, and what is below it frozen. Weights of
    torchvision's networks, from a file too, bring Kinetics' Normalize where `dls` have none. For
    other than three channels those of the first layer are averaged. Networks:
    https://arxiv.org/abs/1711.11248, https://arxiv.org/abs/1712.04851 (s3d),
    https://arxiv.org/abs/2112.01526 (mvit_v2_s), https://arxiv.org/abs/2106.13230 (swin3d_t)."""
    x = _need_clips(dls)
    n_out = _n_out(dls, n_out)
    a = video_arch(arch, n_out, x.shape[1], pretrained, weights)
    _need_answer(a, x, n_out)
    _normalise(dls, a.stats)
    if a.head is not None: kwargs = dict(splitter=HeadSplit(a.head)) | kwargs
    learn = VideoLearner(dls, a.net, _as_loss(dls, loss_func), metrics=metrics, cbs=cbs, **kwargs)
    if a.new_head: learn.freeze()
    if any(isinstance(t, Technique) for t in learn.cbs): check(learn)
    return learn

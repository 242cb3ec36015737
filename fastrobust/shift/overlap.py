"Corruptions that a learner trained on: its errors there are no measure of shifts it has not seen"
import inspect
from fastrobust.basics import robust_warn
from fastrobust.techniques.bases.pipes import train_transforms

__all__ = []

# fastai makes one transform of brightness, contrast, saturation
_OF_FASTAI = dict(Brightness='brightness', Contrast='contrast', Saturation='saturate')

def _own(o, k):
    "Attribute `k` of a callback or transform itself; both look elsewhere for what they have not"
    return getattr(o, k) if inspect.getattr_static(o, k, None) is not None else None

def _trained_on(o):
    "Corruptions that a transform or callback makes"
    names = set(_own(o, 'overlaps') or ())
    if _own(o, 'all_ops') is True: names |= {'brightness', 'contrast', 'saturate'}
    # `tfms`: those that video_aug keeps the same for all frames
    for f in [o, *(_own(o, 'fs') or []), *(_own(o, 'tfms') or [])]:
        if not type(f).__module__.startswith('fastai.'): continue
        kind = type(f).__name__.strip('_').removesuffix('Logit')
        if kind in _OF_FASTAI: names.add(_OF_FASTAI[kind])
    return names

def overlaps(learn):
    "Corruptions that the learner's transforms and callbacks trained on, name -> by what"
    found = {}
    for o in [*train_transforms(learn), *learn.cbs]:
        for k in _trained_on(o):
            found.setdefault(k, []).append(type(o).__name__)
    return found

def overlap_notes(learn, names):
    "Those among `names`, with a warning; and a note"
    found = {k: v for k,v in overlaps(learn).items() if k in names}
    if not found: return [],[]
    by = ', '.join(dict.fromkeys(o for v in found.values() for o in v))
    msg = (f"training used operations that overlap with {', '.join(sorted(found))} ({by}): the "
           "errors there are no measure of shifts the learner has not seen. Train without them, or "
           "leave these names out.")
    robust_warn(msg)
    return sorted(found),[msg[0].upper()+msg[1:]]

"What a report on unknown images was asked for: scores and sets, refused where they cannot be judged"
import numpy as np
from torch import Tensor
from fastrobust.basics import nearest, target_vocab
from fastrobust.data.apart import (files_of, names_shown, parts_of, seen_before, shared_with,
                                   trained_open_sets)
from fastrobust.data.auxrows import OpenSet
from fastrobust.inference.loaders import check_form, own_loader
from fastrobust.ood.logitscores import OODScore
from fastrobust.ood.scores import get_score
from fastrobust.training.technique import Technique

__all__ = []

ME = 'ood_report'

def scorers_of(scores):
    "Fresh scores by name"
    given = [scores] if isinstance(scores, (str, OODScore, type)) else list(scores)
    if not given:
        raise ValueError("expected at least one score, got none. Leave `scores` out for all that the "
                         "network allows.")
    out = {}
    for o in map(get_score, given):
        if o.name in out:
            raise ValueError(f"expected scores of different names, got two called {o.name!r}: "
                             f"{out[o.name]} and {o}. Give one of them another `name`.")
        out[o.name] = o
    return out

_TAKEN = ('id', 'mean', 'known', 'fit', 'mean near', 'mean far', 'mean all')

def sets_of(unknown, positive, near):
    if not isinstance(unknown, dict):
        raise TypeError(f"expected `unknown` as a dict of sets, got a {type(unknown).__name__}. "
                        "Pass {'name': images}.")
    if not unknown:
        raise ValueError("expected at least one unknown set, got an empty dict. Known images alone "
                         "tell nothing: pass {'name': loader, images or OpenSet}.")
    for k in unknown:
        if not isinstance(k, str) or k in _TAKEN or k == '':
            raise ValueError(f"expected names of unknown sets, got {k!r}. Give a string other than "
                             f"{', '.join(map(repr, _TAKEN))}, which mean something else in the "
                             "report.")
    if positive not in ('id', 'ood'):
        raise ValueError("`positive` must be 'id', the known side, or 'ood', the unknown one, got "
                         f"{positive!r}. {nearest(positive, ['id', 'ood'])}")
    near = (near,) if isinstance(near, str) else tuple(near)
    for k in near:
        if k not in unknown:
            raise ValueError(f"expected `near` of unknown sets, got {k!r}. {nearest(k, unknown)}")
    return near

def need_unknown(learn, unknown):
    "Refuse sets of which the network has seen the like: a technique's auxiliary images, or classes of its own"
    vocab = ()
    if getattr(learn.dls, 'vocab', None): vocab = target_vocab(learn.dls)
    # numbers name no classes
    vocab = {k.strip().casefold() for k in vocab if isinstance(k, str)}
    aux = [(t, vars(t).get('aux')) for t in learn.cbs if isinstance(t, Technique)]
    for name,data in unknown.items():
        check_form(data, f'{ME} (set {name!r})')
        # an empty one is refused when it is read
        if isinstance(data, (np.ndarray, Tensor)) and not len(data): continue
        parts = parts_of(data) if isinstance(data, OpenSet) else [data]
        shown = names_shown(data, parts)
        known = [v for k,v in shown.items() if k in vocab]
        if known:
            raise ValueError("expected unknown images, got classes of the learner in set "
                             f"{name!r}: {', '.join(known[:5])}. Leave their images out "
                             "(`open_set(X, y, vocab, keep)`).")
        for t,a in aux:
            if a is None: continue
            why = shared_with(a, data)
            if why:
                raise ValueError(f"expected unknown images, got in set {name!r} what {t.name} "
                                 f"trains on as auxiliary images: {why}. The network was taught "
                                 "that these are unknown; take other ones.")
        why = seen_before(trained_open_sets(learn), data)
        if why:
            raise ValueError(f"expected unknown images, got in set {name!r} what this learner was "
                             f"trained on as auxiliary images: {why}. It was taught that these are "
                             "unknown; take other ones.")

def need_other_files(learn, unknown, *known):
    "Refuse sets that read a file of the learner's images, or of `known` ones"
    files = {k: files_of(v) for k,v in unknown.items()}
    if not any(files.values()): return
    sources = own_loader(learn, 0),own_loader(learn, 1),*known
    mine = set().union(*map(files_of, sources))
    for name,theirs in files.items():
        same = sorted(theirs & mine)
        if same:
            raise ValueError(f"expected unknown images, got {len(same)} of {len(theirs)} files in "
                             f"set {name!r} that are known or training images, the first "
                             f"{same[0]}. Leave them out.")

def need_apart(name, seen, *others):
    "Refuse sets with images that are known, to any of the `others` that there is"
    known = set().union(*(o.images for o in others if o is not None))
    same = [i for i,o in enumerate(seen.images) if o in known]
    if same:
        if len(same) <= 20: shown = f"np.delete(images, {same}, 0)"
        else: shown = f"the first at {same[:20]}"
        raise ValueError(f"expected unknown images, got {len(same)} of {len(seen.images)} in set "
                         f"{name!r} that are equal to known or training images. Leave them out: "
                         f"{shown}.")

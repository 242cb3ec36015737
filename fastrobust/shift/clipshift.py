"What `corruption_report` asks and says where the network is one of clips: names, size, notes"
from fastrobust.images.clips import SHARES, TEMPORAL
from fastrobust.images.corruptions.tables import CORRUPTIONS

__all__ = []

def is_clip(
    shape   # Of one input up to Normalize: (c,h,w), or (t,c,h,w)
): return len(shape) == 4

def _of_one_frame(names, asked):
    wrong = [k for k in names if k in TEMPORAL]
    if not asked or not wrong: return names
    raise ValueError(f"expected clips of 2 frames or more for {', '.join(wrong)}, got 1. Read longer "
                     "clips, or leave them out.")

def fitting_names(
    names,      # Corruptions, a list
    asked,      # Whether the user named them
    shape,      # Of one input
    source      # Published files, or None
):
    "`names` for such inputs: those of time too for clips where none were asked for, never for images"
    if source is not None and is_clip(shape):
        raise ValueError("expected a learner of images for published files, got one of clips. "
                         "Leave `source` out: clips are corrupted in memory.")
    if is_clip(shape) and shape[0] < 2: return _of_one_frame(names, asked)
    if is_clip(shape):
        if not asked: names = [*CORRUPTIONS, *TEMPORAL]
        return names
    wrong = [k for k in names if k in TEMPORAL]
    if wrong and source is None:
        raise ValueError(f"expected corruptions of images, got {', '.join(wrong)}, which are of "
                         "clips. Leave them out, or give a learner of clips (video_learner).")
    return names

def shown_size(shape):
    "The size of a clip (t,c,h,w) in words"
    t,_,h,w = shape
    return f'{t} frames of {h} x {w}'

def _shares(name):
    shares = [f'{s:g}' for s in SHARES[name]]
    return f"{name} {', '.join(shares)}"

def clip_notes(shape, names):
    "What a reader must know of corrupted clips"
    if not is_clip(shape): return []
    notes = []
    if set(names) - set(TEMPORAL):
        notes.append("Corruptions of images act on every frame with the strength of the severity "
                     "and one draw a clip (the same frost, fog, drops, line of blur in all "
                     "frames); noise alone is new in every frame.")
    mine = [k for k in TEMPORAL if k in names]
    if mine:
        shares = '; '.join(_shares(k) for k in mine)
        notes.append("The corruptions of time and their severities are fastrobust's own, no "
                     f"published standard: shares of the {shape[0]} frames, severities 1 to 5: "
                     f"{shares}. Compare with numbers made in this way only.")
    return notes

"Videos in folders: files and folders of frames, classes by folder, and the lists of UCF101 and Kinetics"
import os, re
from pathlib import Path
import pandas as pd
from fastai.vision.core import image_extensions
from fastcore.foundation import L
from fastrobust.basics import need_whole, robust_warn

__all__ = ['get_video_files']

ENDINGS = '.avi','.mp4','.mkv','.mov','.webm','.m4v','.mpg','.mpeg','.wmv','.flv','.ogv','.3gp','.ts'

# --- what is there --------------------------------------------------------------------------------
def _of_kind(names, kinds): return [o for o in names if o[0] != '.' and os.path.splitext(o)[1].lower() in kinds]

def _walked(path):
    "`os.walk` through links, but for those that lead back to where they are, and for what is hidden"
    above = {str(path): {os.path.realpath(path)}}
    for folder,inner,names in os.walk(str(path), followlinks=True):
        here = above.pop(folder)
        real = {o: os.path.realpath(os.path.join(folder, o)) for o in inner}
        inner[:] = [o for o in inner if o[0] != '.' and real[o] not in here]
        above |= {os.path.join(folder, o): here | {real[o]} for o in inner}
        yield folder,inner,names

def get_video_files(
    path    # Folder, searched at any depth
)->L:       # Paths in one order on every machine
    "Videos below a folder: files by their ending, and folders that hold nothing but images, which are frames"
    found = []
    for folder,inner,names in _walked(_need_folder(path)):
        videos = _of_kind(names, ENDINGS)
        found += [Path(folder)/o for o in videos]
        frames = len(_of_kind(names, image_extensions)) > 1
        if frames and not videos and not inner: found.append(Path(folder))
    return L(sorted(found))

def _need_folder(path):
    path = Path(path)
    if path.is_dir(): return path
    raise ValueError(f"expected a folder of videos, got {str(path)!r}, which is none. Look at the "
                     "path.")

def need_videos(path):
    "The videos below `path`; where there are none, what is there instead"
    found = get_video_files(path)
    if found: return found
    others = [o for o in Path(path).rglob('*') if o.is_file()]
    kinds = sorted({o.suffix.lower() or 'no ending' for o in others})
    have = f" ({', '.join(kinds[:5])})" if kinds else ''
    raise ValueError(f"expected videos in {str(path)!r} or folders in it, got none among "
                     f"{len(others)} files{have}. Looked for the endings {', '.join(ENDINGS[:5])} "
                     "and others, and for folders of frames.")

def recording_of(
    path    # Of a video
):          # A name; the path where the video's says nothing
    "From which recording a clip was cut, as names of UCF101 (`_g01_c02`) and Kinetics (`_000010_000020`) say"
    path = Path(path)
    for cut in (r'(.+_g\d+)_c\d+$', r'(.+)_\d{6}_\d{6}$'):
        found = re.match(cut, path.stem)
        if found: return found[1]
    return str(path)

def class_items(
    root,       # Folder with a folder a class
    videos=None # Which videos below it; None: all
):              # List of (path, class)
    "Videos and their class, the folder of `root` that they are in"
    root = Path(root)
    videos = need_videos(root) if videos is None else videos
    if root in videos:
        raise ValueError(f"expected a folder a class in {str(root)!r}, got images in it, the "
                         "frames of one video. Give the folder that holds the classes.")
    loose = [o for o in videos if o.parent == root]
    if loose:
        raise ValueError(f"expected a folder a class in {str(root)!r}, got {len(loose)} videos "
                         f"beside them such as {loose[0].name!r}. Move them, or give lists: "
                         "video_dls((files, labels)).")
    return [(o, o.relative_to(root).parts[0]) for o in videos]

# --- lists and what they name ---------------------------------------------------------------------
def _found(wanted, n, there, of):
    "Those of `wanted` that are there; a warning says how many are not"
    if not wanted: raise ValueError(f"expected videos named by {of}, got none of {n} in {there!r}. Look at the folder.")
    if len(wanted) < n: robust_warn(f"{n-len(wanted)} of {n} videos of {of} are not in {there!r}: left out.")
    return wanted

def _list_file(root, name):
    "The file `name` of UCF101's lists: in the folder, beside or below it"
    at = root,root/'ucfTrainTestlist',root.parent/'ucfTrainTestlist'
    near = [o/name for o in at if (o/name).is_file()]
    near = near or sorted(root.rglob(name))
    if near: return near[0]
    raise ValueError(f"expected UCF101's {name} in {str(root)!r}, in its ucfTrainTestlist or "
                     "beside it, got none. Unpack the lists there, or leave `split` out for a "
                     "random share.")

def _lines(path):
    return [o.strip() for o in Path(path).read_text().splitlines() if o.strip()]

def _classes(path):
    "The classes of classInd.txt in the order of their numbers; a name may have spaces"
    rows = [o.split(maxsplit=1) for o in _lines(path)]
    odd = [' '.join(o) for o in rows if len(o) < 2 or not o[0].isdecimal()]
    if not rows or odd:
        raise ValueError(f"expected lines such as '1 ApplyEyeMakeup' in {str(path)!r}, got "
                         f"{odd[:1] or 'none'}. Take the file of the release.")
    return [k for _,k in sorted((int(i), k) for i,k in rows)]

def _listed(path):
    "The videos of a list, without the numbers of their classes that may follow"
    return [Path(re.sub(r'\s+\d+$', '', o)) for o in _lines(path)]

def ucf101_items(
    folder, # Root of the videos: CLASS/v_CLASS_gXX_cYY.avi, maybe in UCF-101; or folders of frames of these names
    split=1 # Which of the three pairs of lists
):          # (training, validation) lists of (path, class), and the classes in the order of classInd.txt
    "UCF101 by its own lists (https://www.crcv.ucf.edu/data/UCF101.php): no recording is in both"
    root = _need_folder(folder)
    split = need_whole('split', split, 1, 3, what='of UCF101')
    names = f'trainlist0{split}.txt',f'testlist0{split}.txt'
    there = {(o.parent.name, o.stem): o for o in need_videos(root)}
    vocab = _classes(_list_file(root, 'classInd.txt'))
    parts,total = [],0
    for name in names:
        listed = _listed(_list_file(root, name))
        total += len(listed)
        unknown = sorted({o.parent.name for o in listed} - set(vocab))
        if unknown:
            raise ValueError(f"expected the classes of classInd.txt in {name}, got {unknown[:3]}. "
                             "Take both from one release.")
        paths = [(there.get((o.parent.name, o.stem)), o.parent.name) for o in listed]
        parts.append([o for o in paths if o[0] is not None])
    for part,name in zip(parts, names): _found(part, 1, str(root), name)
    _found(parts[0]+parts[1], total, str(root), ' and '.join(names))
    shared = {recording_of(o) for o,_ in parts[0]} & {recording_of(o) for o,_ in parts[1]}
    if shared:
        raise ValueError(f"expected no recording in both lists of split {split}, got "
                         f"{len(shared)} such as {min(shared)!r}. Take the lists of UCF101 as "
                         "they are.")
    return *parts,vocab

def _kinetics_table(csv):
    "Rows of one list or of several"
    files = csv if isinstance(csv, (list, tuple)) else [csv]
    need = ['label', 'time_end', 'time_start', 'youtube_id']
    # an id of digits alone may begin with 0
    try:
        tables = [pd.read_csv(o, dtype={'youtube_id': str}) for o in files]
        table = pd.concat(tables, ignore_index=True)
    except ValueError as e:
        raise ValueError("expected the list of Kinetics as a csv with the columns "
                         f"{', '.join(need)}, or several, got {csv!r} ({e}). Take that of the "
                         "release.") from e
    if not set(need) <= set(table):
        raise ValueError(f"expected the columns {', '.join(need)} in the list of Kinetics, got "
                         f"{', '.join(map(str, table))}. Take the csv of the release that has "
                         "labels.")
    for k in need[1:3]: table[k] = pd.to_numeric(table[k], errors='coerce')
    lack = table[need].isna().any(axis=1)
    if not lack.any(): return table
    raise ValueError("expected a label, an id and two times in seconds in every row of the list "
                     f"of Kinetics, got {lack.sum()} rows without, the first number "
                     f"{lack.idxmax()+1} below the header. Drop them.")

def kinetics_items(
    folder, # Root of the videos ID_START_END.mp4, at any depth, or folders of frames of these names
    csv     # Its list, or several (training, validation): label, youtube_id, time_start, time_end, maybe split
):          # (training, validation) lists of (path, class), the second None where the lists name no split
    "Kinetics by its own lists (https://arxiv.org/abs/1705.06950); what is no longer to be had is left out and counted"
    root = _need_folder(folder)
    t = _kinetics_table(csv)
    there = {o.stem: o for o in need_videos(root)}
    stems = [f'{i}_{int(a):06d}_{int(b):06d}' for i,a,b in zip(t.youtube_id, t.time_start, t.time_end)]
    held = [False]*len(t)
    if 'split' in t: held = [not str(o).startswith('train') for o in t.split]
    rows = [(there.get(s), k, h) for s,k,h in zip(stems, t.label, held)]
    rows = _found([o for o in rows if o[0] is not None], len(t), str(root), 'the list of Kinetics')
    train,valid = ([(o, k) for o,k,h in rows if h == side] for side in (False, True))
    return (train, valid) if train and valid else (train + valid, None)

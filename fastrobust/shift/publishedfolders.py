"Published corrupted test sets in folders of images (ImageNet-C, Tiny-ImageNet-C), as they lie on the disk"
# Files of the size a learner sees are used as they are: a second resize and crop shows it a part
# of the image only.
from PIL import Image
from fastai.data.core import TfmdDL
from fastai.data.transforms import get_image_files
from fastrobust.basics import nearest, robust_warn, target_vocab
from fastrobust.inference.loaders import learners_loader
from fastrobust.shift.publishedarrays import (SEVERITIES, grouped, need_cell, need_folder,
                                              usual_order)

__all__ = ['CorruptedFolders']

class CorruptedFolders:
    "ImageNet-C, Tiny-ImageNet-C: `<corruption>/<severity>/<class>/*.JPEG`, also with folders of groups around"
    def __init__(self,
        folder,     # Unpacked folder; images are listed when a cell is asked for
        vocab=None  # dict from folder of a class (wordnet id) to class of the learner; None: they are the same
    ):
        self.folder = need_folder(folder, "<corruption>/<severity>/<class>/ images")
        self.vocab = vocab
        subs = sorted(p for p in self.folder.glob('*') if p.is_dir())
        # the archives come as blur/, noise/ ..
        subs += sorted(q for p in subs for q in p.glob('*') if q.is_dir())
        def severities(p): return [s for s in SEVERITIES if (p/str(s)).is_dir()]
        cells = {p.name: p for p in subs if severities(p)}
        if not cells:
            raise ValueError(f"expected <corruption>/<severity>/<class>/ in {str(self.folder)!r}, "
                             "got none. Give the folder that holds gaussian_noise/; for .npy files "
                             "there is CorruptedArrays.")
        for name,p in cells.items():
            have = severities(p)
            lost = [s for s in SEVERITIES if s not in have]
            if lost:
                raise ValueError(f"expected severities 1 to 5 of {name}, got none for {lost}. "
                                 "Unpack it again.")
        self.names = usual_order(cells)
        self._dirs = cells
        self._first = None
        self._first = self._list(self.names[0], 1)

    @property
    def n(self): return len(self._first)
    @property
    def labels(self):
        # folder names: the same for every cell
        return [o.split('/')[0] for o in self._first]
    @property
    def classes(self): return sorted(set(self.labels))

    def _list(self, name, severity):
        "Files of a cell, relative to it: the same for every cell, or the set is not whole"
        root = self._dirs[name]/str(severity)
        rel = sorted(o.relative_to(root).as_posix() for o in get_image_files(root))
        stray = [o for o in rel if '/' not in o]
        first = self._first or rel
        if stray or not rel:
            got = f'{stray[0]} outside of one' if stray else 'none'
            raise ValueError(f"expected images in folders of classes in {str(root)!r}, got {got}. "
                             "Unpack the archive as it is.")
        if rel != first:
            raise ValueError("expected the same files in every cell, got "
                             f"{len(set(first)-set(rel))} missing and {len(set(rel)-set(first))} "
                             f"more in {str(root)!r}. Unpack {name} again.")
        return rel

    def items(self,
        name:str,       # Corruption, one of `names`
        severity:int    # 1 to 5
    ):
        "Paths of the images of one cell, in the order of `labels`"
        s = need_cell(self.names, name, severity)
        return [self._dirs[name]/str(s)/o for o in self._list(name, s)]

    def as_dl(self,
        learn,          # Learner: its batch transforms and its vocab are used
        name:str,       # Corruption, one of `names`
        severity:int,   # 1 to 5
        bs=None         # Batch size; None: of the learner's validation loader
    ):
        "Loader of one cell with labels; files of the learner's size are not resized again"
        files = self.items(name, severity)
        known = target_vocab(learn.dls)
        vocab = self.vocab or {}
        to = {o: vocab.get(o, o) for o in self.classes}
        lost = [o for o in self.classes if to[o] not in known]
        if len(lost) == len(self.classes):
            raise ValueError(f"expected classes of the learner, got {lost[:3]}, none of which it "
                             f"knows. {nearest(lost[0], known[:20])} Give `vocab`, a dict from "
                             "folder to class.")
        if lost:
            robust_warn(f"{len(lost)} of {len(self.classes)} classes are unknown to the learner "
                        f"(first: {lost[0]}): their images are left out.")
        pairs = [(f, to[l]) for f,l in zip(files, self.labels) if to[l] in known]
        first = pairs[0][0]
        with Image.open(first) as im: size = im.size[::-1]
        return learners_loader(learn, lambda vocab: pairs, size, bs, TfmdDL)

    def __len__(self): return len(self.names)
    def __repr__(self):
        return '\n'.join([
            f"CorruptedFolders {self.folder}: {len(self)} corruptions x 5 severities x {self.n} "
            "images",
            f"<corruption>/<severity>/<class>/<image>, {len(self.classes)} classes, "
            "the same files in every cell",
            *grouped(self.names)])

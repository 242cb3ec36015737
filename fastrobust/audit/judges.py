"Who judges the labels: a frozen network, or ones trained in folds; and what each keeps meanwhile"
import zlib
from pathlib import Path
from fastrobust.audit.loading import IN_ARRAY, Loading
from fastrobust.audit.network import BODY, PLAIN, SCRATCH, SMALL, frozen_body, learner_maker
from fastrobust.audit.progress import images_done, watched
from fastrobust.basics import robust_warn
from fastrobust.labels.crossval import PRETRAINED, usual_bs, usual_epochs
from fastrobust.labels.frozen import LEAST, frozen
from fastrobust.labels.outoffold import OtherRun, drop_folds
from fastrobust.labels.report import DRAWS, FOLDS, noise_report

__all__ = []

SIDE,PLAIN_SIDE = 224,128   # Pixels of photographs for a pretrained body, and for the plain one

def need_together(arch, weights, train, folds, epochs, draws):
    "Refuse options that contradict each other, before anything is read"
    trains = train or arch == SCRATCH
    if weights is not None and arch in (SCRATCH, PLAIN):
        raise ValueError(f"--weights are of a pretrained network, got --arch {arch}. Name theirs: "
                         "--arch resnet18.")
    if train and arch == PLAIN:
        raise ValueError("expected a network with --train, got --arch plain, which has nothing to "
                         "train. Leave out one of the two.")
    if trains and draws is not None:
        raise ValueError("expected no --draws with networks trained in folds, which see planted "
                         "labels once. Leave it out.")
    given = [k for k,v in (('--folds', folds), ('--epochs', epochs)) if v is not None]
    if given and not trains:
        raise ValueError(f"expected no {' or '.join(given)} with a frozen network, which trains "
                         "nothing. Add --train for networks trained in folds, or leave it out.")

# --- frozen ---------------------------------------------------------------------------------------
_PLAIN = ("judged without a pretrained network, by gradients and colours, which see less. What would "
          "help: --arch resnet18, or another --arch with a file of its --weights.")

def sizes(side, plain, size):
    "Pixels that images of `side` are loaded at, and those that the judge sees: it enlarges small ones"
    if size: return size,size
    if side < LEAST:
        load = max(side, 8)
        return load,load if plain else LEAST
    if plain: return PLAIN_SIDE,PLAIN_SIDE
    return SIDE,SIDE

class FrozenJudge:
    "A frozen body, pretrained or 'plain': one pass, then each item is judged without it"
    def __init__(self,
        listing,    # `Listing` of images and labels
        arch,       # Name, 'plain' or None
        weights,    # File with a state dict, or None
        size,       # Pixels, or None
        draws,      # Times that labels are planted, or None
        bs,         # Images at a time, or None
        out         # Folder of the audit
    ):
        body,self.note = frozen_body(arch, weights, sizes(listing.side, False, size)[1])
        if self.note: robust_warn(self.note)
        plain = body == PLAIN
        load,see = sizes(listing.side, plain, size)
        self.folder,self.draws,self.n = out/'features',draws or DRAWS,len(listing.paths)
        self.judge = frozen(body, size=None if plain else see, path=self.folder)
        self.loading = Loading(load, bs or 64, max(load, listing.side) <= IN_ARRAY)
        self.pixels = f'{load} pixels'
        if load != see: self.pixels += f', enlarged to {see}'
        self.what = 'gradients and colours, which need no weights'
        if not plain: self.what = f'{body.name}, pretrained, frozen'
        if weights is not None:
            self.what = f'{body.name} with the weights of {Path(weights).name}, frozen'
        if plain and self.note is None: self.note = _PLAIN

    def settings(self): return self.pixels

    def report(self, dls, plant, seed):
        "The `NoiseReport`, after the pass"
        with watched(self.folder, self.n) as bar: self.rows = self.judge.features(dls, verbose=bar)
        return noise_report(self.judge, dls, plant=plant, draws=self.draws, seed=seed, verbose=False)

    def own_notes(self):
        "Notes of the report that `note` says in words of the command"
        return self.judge.notes()

    def how(self, plant):
        "Sentences: how it was measured"
        yield ("Nothing was trained: features of each image in one pass, then ridge regression, exactly "
               "as if the image had not been there, for each of them.")
        if plant:
            yield (f"{plant:.1%} of the labels were changed {self.draws} times, alike those that look "
                   "wrong, to measure by; your labels are as they were.")

    def kept(self):
        "What a stopped audit leaves, in words; '': nothing"
        k = images_done(self.folder)
        if not k: return ''
        return (f"Features of {min(k, self.n):,} of {self.n:,} images are in {self.folder}: the same "
                "command goes on from there.")

    def clean(self):
        "Delete the features"
        self.rows.drop()

# --- trained --------------------------------------------------------------------------------------
def train_settings(n, small, side, size, epochs, bs):
    "What was not said: few images need small batches and more epochs (rules of thumb)"
    if not bs: bs = usual_bs(n)
    if not size:
        size = max(16, min(side, SMALL['side'])) if small else BODY['side']
    if epochs is None:
        epochs = usual_epochs(n, bs) if small else PRETRAINED
    return size,epochs,bs

class TrainedJudge:
    "Networks trained in folds, each judging the images it was not trained on"
    note = None
    def __init__(self,
        listing,    # `Listing` of images and labels
        arch,       # Name, 'small' or None
        weights,    # File with a state dict, or None
        size,       # Pixels, or None
        epochs,     # Of each fold, or None
        folds,      # Networks, or None
        bs,         # Batch size, or None
        out         # Folder of the audit
    ):
        self.make,self.what,small = learner_maker(arch, weights)
        n = len(listing.paths)
        size,self.epochs,bs = train_settings(n, small, listing.side, size, epochs, bs)
        self.loading = Loading(size, bs, small, True)
        self.folder,self.folds = out/'folds',folds or FOLDS
        self.weights = '' if weights is None else zlib.crc32(Path(weights).read_bytes())

    def settings(self):
        how = self.loading
        return f'{how.size} pixels, {self.epochs} epochs, batches of {how.bs}, {self.folds} folds'

    def report(self, dls, plant, seed):
        "The `NoiseReport`; folds of other labels or settings are deleted"
        tag = f'{self.what}; {self.settings()}; weights {self.weights}'
        run = dict(n_folds=self.folds, plant=plant, seed=seed, epochs=self.epochs,
                   path=self.folder, tag=tag)
        try: return noise_report(self.make, dls, **run)
        except OtherRun:
            print(f"folds of other labels or settings in {self.folder}: deleted", flush=True)
            drop_folds(self.folder)
            return noise_report(self.make, dls, **run)

    def own_notes(self): return []

    def how(self, plant):
        "Sentences: how it was measured"
        yield f"Each image was judged by a network that had not seen it: {self.folds} folds."
        if plant:
            yield (f"{plant:.1%} of the labels were changed at random before the training, to measure "
                   "by; your labels are as they were.")

    def kept(self):
        "What a stopped audit leaves, in words; '': nothing"
        if not any(self.folder.rglob('*.npz')): return ''
        return f"Finished folds are in {self.folder}: the same command goes on from there."

    def clean(self):
        "Delete the folds"
        drop_folds(self.folder)

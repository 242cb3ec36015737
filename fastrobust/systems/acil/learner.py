"A learner whose classes come in phases: the body is trained once, then each phase is learned in one pass, exactly"
import numpy as np
from fastai.learner import Learner
from fastrobust.basics import need_whole, plain_dl, robust_warn, target_vocab
from fastrobust.calibration.temperature import temperature_of, untemper
from fastrobust.data.growing import with_vocab
from fastrobust.data.phases import ClassPhases
from fastrobust.inference.features import Rows, fill
from fastrobust.systems.acil.past import Phase, key_of, need_new, without
from fastrobust.systems.acil.arrivals import arriving, same_items
from fastrobust.systems.acil.net import phase_nets
from fastrobust.systems.acil.scores import hits, said
from fastrobust.systems.acil.table import phase_table
from fastrobust.systems.acil.seen import SeenOnly, known_alone
from fastrobust.systems.bases.leftout import left_out
from fastrobust.training.surgery import has_surgery, is_random

__all__ = []

class ACILLearner(Learner):
    """Class-incremental learning in closed form (ACIL, https://arxiv.org/abs/2205.14922). `dls` holds the items of the
    planned phase learned last and the plan's validation items of all classes so far; `acil_learner` makes one"""
    def __init__(self,
        plan:ClassPhases,   # Who comes when
        net,                # `PhaseNet`
        **kwargs            # More for Learner
    ):
        self.plan = plan
        self._drop_features()
        super().__init__(plan.loaders(0), net, **kwargs)
        self.add_cb(SeenOnly())

    def _drop_features(self):
        # `Rows` of the items of each phase (`key_of`), which `phase_table` compares heads on
        self.rows,self.valid_rows = {},{}
        self._arrived = None        # what `add_classes` was given last

    def export(self, *args, **kwargs):
        "fastai's: the file holds sums and digests of items, no item and no features"
        kept = {k: vars(self)[k] for k in ('plan', 'rows', 'valid_rows', '_arrived')}
        try:
            self.plan = None
            self._drop_features()
            super().export(*args, **kwargs)
        finally: vars(self).update(kept)

    # --- gradients: the base alone, and before the head has learned ---
    def _need_body(self, what):
        if not any(net.learned for net in phase_nets(self.model)): return
        raise ValueError(f"expected no {what} after phases were learned: the head stands on the "
                         "features of the body as it is, and what it knows of earlier phases would "
                         "be lost. Train the body first (`fit_base`), in a new acil_learner.")

    def fit(self, *args, **kwargs):
        "fastai's, on the base classes; refused once a phase was learned"
        self._need_body('training')
        self._drop_features()       # an interrupted call may have read some of the body as it was
        super().fit(*args, **kwargs)

    def fine_tune(self, *args, **kwargs):
        self._need_body('training')
        super().fine_tune(*args, **kwargs)

    def fit_base(self,
        n,          # Epochs on the base classes; 0: none, as a pretrained body may stay (RanPAC's setting)
        lr=None,    # Learning rate; None: that of the learner
        **kwargs    # More for `fit_one_cycle`, of a pretrained body for `fine_tune`
    ):
        "Train the body on the base classes by gradients, with the augmentation of the dls; before any phase"
        self._need_body('training')
        if not need_whole('n', n, 0, what='epochs'): return
        if is_random(phase_nets(self.model)[0].body): self.fit_one_cycle(n, lr, **kwargs)
        else: self.fine_tune(n, self.lr if lr is None else lr, **kwargs)

    # --- phases ---
    @property
    def past(self):
        "A `Phase` for each that was learned"
        return self.model.past

    @property
    def n_learned(self):
        "Phases of the plan that were learned, the base included"
        return sum(p.planned for p in self.past)

    def _check(self):
        if has_surgery(self.model):
            raise ValueError("expected the plain network, got one that a technique has changed. Take "
                             "it off before the phases: learn.remove_cb(..).")

    def fit_phases(self,
        n=None,         # How many phases now, the base counts as one; None: all that are left
        verbose=True    # Print a line a phase?
    ):
        """Learn the base and the phases that are left, one pass each: not augmented, no item dropped, no gradient.
        After a Ctrl-C call it again: features that were computed are kept, a phase is learned whole or not at all"""
        self._check()
        if n is not None: need_whole('n', n, 1, what='phases')
        if self.plan is None:
            raise ValueError("expected a learner with the items of its phases, got an exported one. "
                             "It learns more with `add_classes(path)`.")
        left = range(self.n_learned, self.plan.n_phases+1)
        if not left:
            raise ValueError(f"expected phases that are left, got none: all {self.plan.n_phases+1} "
                             "have been learned, and a second pass would count their items twice. "
                             "New classes: `add_classes`.")
        if not self.past and is_random(self.model.body):
            robust_warn("the body has not been trained, its features are random: call `fit_base(n, "
                        "lr)` first, or take a pretrained one.")
        for k in left[:n]: self._learn_planned(k, verbose)

    def _learn_planned(self, k, verbose):
        dl,ids = plain_dl(self.plan.dls.train),self.plan.train_ids(k)
        rows = self._read(self.rows, ('plan', k), dl, ids)
        for i in range(k+1): self._read_valid(i)
        dls = self._dls_of(k)
        self._learn(str(k) if k else 'base', rows, verbose, planned=True)
        self.dls = dls

    def _read_valid(self, k):
        "Validation items of the classes that come with phase `k`"
        if not len(self.plan.yv): return
        before = self.plan.valid_ids(k-1) if k else []
        ids = np.setdiff1d(self.plan.valid_ids(k), before)
        if len(ids): self._read(self.valid_rows, ('plan', k), plain_dl(self.plan.dls.valid), ids)

    def _dls_of(self, k):
        "Loaders of phase `k`, with the vocab as it is now"
        dls = self.plan.loaders(k)
        vocab = self.model.head.vocab or self.plan.vocab
        if len(vocab) > len(self.plan.vocab): dls = with_vocab(dls, vocab)
        return known_alone(self, dls)

    def load(self, *args, **kwargs):
        super().load(*args, **kwargs)
        self._drop_features()
        net = self.model
        if self.plan is not None: self.dls = self._dls_of(max(0, self.n_learned-1))
        net.n_out = max(net.n_out, len(target_vocab(self.dls)))
        net.body.requires_grad_(not net.learned)
        return self

    def _read(self, store, key, dl, ids=None, codes=None):
        "The `Rows` of a phase, kept in `store`; what an interrupted call has read is not read again"
        n = len(dl.dataset) if ids is None else len(ids)
        if key not in store: store[key] = Rows(n, keyed=store is self.rows)
        return fill(store[key], self, self.model.body, dl, ids, 'ACILLearner', codes, self.model.like)

    def _learn(self, name, rows, verbose, *, planned, vocab=None):
        "All is computed beside what there is, then put in its place"
        need_new(self.past, rows.keys, name)
        if not self.past and rows.n < 2:
            raise ValueError("expected at least two items in the base, whose mean and std scale the "
                             f"features from then on, got {rows.n}. Give it more classes: `base`.")
        net = self.model
        head = net.head.clone()
        old = set(head.classes)
        head.fit(rows.f, rows.y)
        head.vocab = vocab or head.vocab or target_vocab(self.dls)
        T = self._temperature(head, rows)
        new = [k for k in head.classes if k not in old]
        found = hits(head, self.valid_rows.values())
        y = rows.y.numpy().copy()
        phase = Phase(name, new, rows.n, len(head.classes), head.gamma_, T, found, rows.keys, y, planned)
        self._commit(head, T, phase, verbose)

    def _temperature(self, head, rows):
        "Of all items, left out one by one; where earlier ones are gone, of the new ones, averaged with what there is"
        earlier = [self.rows.get(key_of(self.past, i)) for i in range(len(self.past))]
        if all(r is not None for r in earlier): return left_out(head, *earlier, rows).T
        share = rows.n/head.stats.n
        return self.model.T**(1-share) * left_out(head, rows).T**share

    def _commit(self, head, T, phase, verbose):
        net = self.model
        net.head,net.T = head,T
        net.n_out = len(head.vocab)
        net.past = [*net.past, phase]
        net.body.requires_grad_(False)
        net.train(net.training)
        if temperature_of(self) is not None: untemper(self)     # one fitted for the head as it was
        if verbose: print(said(phase))

    # --- what comes unplanned, what goes ---
    def add_classes(self,
        data,           # Folder of class folders; DataLoaders (validation items: for `phase_table`); or a loader
        name=None,      # Of the phase in tables; None: that of the folder, or a number
        verbose=True    # Print a line?
    ):
        """Learn items of any classes, new names or old ones, in one pass. New names go to the end of the vocab, in the
        order of their own, of folders that of the alphabet. An exported learner can do it too, in another process.
        `learn.dls` keeps the validation items it has: those of `data` are in `phase_table`"""
        self._check()
        if not self.past:
            raise ValueError("expected a base that was learned, whose mean and std scale the features "
                             "from then on, got none. Call `fit_phases()` first.")
        i = len(self.past)
        got = arriving(self, data, name or f'added {i}')
        key = 'added',i
        # the rest of an interrupted call, if it was given the same
        if not same_items(self._arrived, got.items):
            for store in (self.rows, self.valid_rows): store.pop(key, None)
        self._arrived = got.items
        rows = self._read(self.rows, key, got.dl, None, got.codes)
        if got.valid is not None: self._read(self.valid_rows, key, got.valid, None, got.codes)
        dls = with_vocab(self.dls, got.vocab) if len(got.vocab) > len(target_vocab(self.dls)) else self.dls
        self._learn(name or got.name, rows, verbose, planned=False, vocab=got.vocab)
        self.dls,self._arrived = dls,None

    def forget(self,
        data,           # Items as they were learned: DataLoaders (the training items), a loader or a folder
        verbose=True    # Print a line?
    ):
        """Take items out of the head, which is then as if they had never been there. Body and scaling stay, and may
        have seen them; sums over fewer items than features tell of single ones: this is no guarantee of privacy"""
        self._check()
        got = arriving(self, data, 'forget')
        if len(got.vocab) > len(target_vocab(self.dls)):
            raise ValueError("expected items of learned classes to forget, got class "
                             f"{got.vocab[-1]!r}. Look at the names of its labels.")
        rows = fill(Rows(len(got.dl.dataset), keyed=True), self, self.model.body, got.dl, None, 'forget', got.codes)
        past = without(self.past, rows.keys, rows.y.numpy())
        head = self.model.head.clone()
        head.forget(rows.f, rows.y)
        if not head.classes:
            raise ValueError(f"expected items that stay, got all {rows.n} to forget. Make a new learner: "
                             "acil_learner(dls, learn).")
        T,found = self.model.T,hits(head, self.valid_rows.values())
        none = rows.keys[:0],rows.y[:0].numpy()
        phase = Phase(f'forgot {rows.n}', [], -rows.n, len(head.classes), head.gamma_, T, found, *none, False)
        self.model.past,self.rows = past,{}     # the features kept for `phase_table` go too
        self._commit(head, T, phase, verbose)
        self.dls = known_alone(self, self.dls)

    def phase_table(self,
        rivals=True,    # Other heads on the same features too?
        seed=0          # Of the layer trained by gradients
    ):
        "Accuracy after each phase, on old and new classes, beside other heads on the same features"
        return phase_table(self, rivals, seed)

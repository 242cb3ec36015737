"TinyMIM: a small vision transformer learns the relations between tokens that a large one has"
# Ren, Wei, Zhang, Hu, TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models,
# https://arxiv.org/abs/2301.01296
# Stages: surgery + penalty. Alone on images without labels, or beside a loss on labels.
from typing import NamedTuple
from fastrobust.basics import is_whole
from fastrobust.systems.tinymim.attending import Enough, Tap, end_loan, lend_heads
from fastrobust.systems.tinymim.distilling import Distil
from fastrobust.systems.tinymim.inside import Inside
from fastrobust.systems.tinymim.plain import need_plain
from fastrobust.systems.tinymim.relations import finite_kl, need_kinds, need_tokens, relations_of
from fastrobust.systems.tinymim.vits import ViT

__all__ = ['TinyMIM']

class Relations(NamedTuple):
    "Log-probabilities (b,heads,n,n), one for each kind"
    logs:tuple

class RelationNet(Inside):
    "A vision transformer that in training also gives the relations of one of its blocks"
    def __init__(self, net, block, kinds, heads, skip):
        super().__init__(net)
        self.block,self.kinds,self.heads,self.skip = block,kinds,heads,skip

    def look(self, *xb):
        with Tap(ViT(self.net, 'the student'), self.block) as tap: out = self.net(*xb)
        rel = relations_of(tap, self.kinds, self.heads, self.skip)
        return out,Relations(tuple(rel.values()))

def usual_block(
    teacher,    # `ViT`
    student     # `ViT`
):
    "The paper's: three quarters up where the teacher is deeper (18 of 24), else the last; from 0"
    if teacher.depth <= student.depth: return teacher.depth-1
    return round(.75*teacher.depth)-1

def need_block(name, v):
    if is_whole(v): return int(v)
    raise ValueError(f"`{name}` must be a whole number, the position of a block, got {v!r}. The "
                     "last is -1.")

class TinyMIM(Distil):
    """Add lam times sum over kinds of KL(teacher || student) of relations softmax(AB'/sqrt(d))

    Between the tokens in a block of each (https://arxiv.org/abs/2301.01296, eq. 2-4). The
    student's is cut into as many heads as the teacher's has, without a parameter more, and stays
    so. What comes after the values of that block, also the last norm, has no gradient from this:
    `linear_probe` reads its input, and labels train the rest in `to_classifier`. A state_dict does
    not say how many heads the block has: one that is loaded into a new network of the same name is
    another function, without an error. Keep the network by `learn.export()`, or set its heads."""
    kind,surgery = Relations,RelationNet
    def __init__(self,
        teacher,            # Vision transformer of timm, torchvision, `tiny_vit`, or a fitted Learner
        # Position of its block; None: the paper's, 3/4 up where it is deeper than the student, else
        # the last (of a teacher of four blocks the last was no worse: nbs/benchmarks/RESULTS.md)
        teacher_block=None,
        student_block=-1,   # Position, from the end where negative; the paper's is the last
        kinds=('qk', 'vv'), # Some of 'qk', 'vv', 'qq', 'kk'; the paper's
        tokens='all',       # 'all', or 'patch' where the tokens before the patches differ
        lam=1.,             # Weight > 0, or a schedule of pct_train; the paper's
        # Height and width in pixels, or a pair, of the images it is shown; None: the student's
        teacher_size=None
    ):
        self.student_block = need_block('student_block', student_block)
        self.kinds,self.tokens = need_kinds(kinds),need_tokens(tokens)
        super().__init__(teacher, lam, teacher_size)
        vit = self._vit()
        if teacher_block is not None: vit.at(teacher_block, 'teacher_block')
        vit.attention(-1 if teacher_block is None else teacher_block)
        self.teacher_block = teacher_block
        self._usual = teacher_block is None
        self._trained = False

    def _vit(self): return ViT(self.teacher, 'the teacher')
    def _skip(self, vit): return vit.prefix if self.tokens == 'patch' else 0

    @property
    def names(self): return self.kinds

    def trained_to(self, net): return ViT(net, 'the student').at(self.student_block, 'student_block')

    # --- surgery ---
    def wrap(self, net):
        student,teacher = ViT(net, 'the student'),self._vit()
        block = student.at(self.student_block, 'student_block')
        if self._usual: self.teacher_block = usual_block(teacher, student)
        heads = teacher.attention(self.teacher_block).heads
        lend_heads(student, block, heads)
        return RelationNet(net, block, self.kinds, heads, self._skip(student))

    def try_on(self, w, x):
        need_plain(ViT(w.net, 'the student'), w.block, x)
        super().try_on(w, x)
        need_plain(self._vit(), self.teacher_block, self.its_images(x))

    def update(self, batch): self._trained = True

    def _uninstall(self, learn):
        super()._uninstall(learn)
        if learn is not None: end_loan(learn.model, keep=self._trained)

    # --- the term ---
    def ask(self, x, kept=None):
        vit = self._vit()
        with Tap(vit, self.teacher_block, last=True) as tap:
            try: vit.net(x)
            except Enough: pass
            if kept is not None: tap.keep(kept, vit.prefix)
            return relations_of(tap, self.kinds, tap.attention.heads, self._skip(vit))

    def terms(self, seen, x, kept=None):
        told = self.asked(x, kept)
        for k,log_s in zip(self.kinds, seen.logs): self._need_alike(told[k], log_s, x)
        return {k: finite_kl(told[k], log_s) for k,log_s in zip(self.kinds, seen.logs)}

    def _need_alike(self, log_t, log_s, x):
        n_t,n_s = log_t.shape[-1],log_s.shape[-1]
        if n_t == n_s: return
        raise ValueError("expected a teacher and a student with the same tokens, got "
                         f"{n_t} and {n_s}. {self._cure(n_t, n_s, x)}")

    def _cure(self, n_t, n_s, x):
        "What makes the tokens alike: the same grid of patches, then the same tokens before them"
        if self.tokens == 'all':
            n_t -= self._vit().prefix
            n_s -= ViT(self.inside[0].net).prefix
        if n_t == n_s:
            return ("The patches are alike, the tokens before them are not: tokens='patch' leaves "
                    "them out.")
        side = (self.teacher_size or x.shape[-2:])[0]*(n_s/n_t)**.5
        says = ("Take patches of such a size that both have the same grid, or show the teacher "
                f"images of another size: teacher_size={round(side)}.")
        if self.tokens == 'patch': return says
        return f"{says} Then tokens='patch' where the tokens before the patches differ."

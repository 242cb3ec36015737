"Loaders of fields: whole batches at a time, from memory or, read item by item, from files"
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastrobust.systems.koopman.data.fielditems import FieldItems, new_items

__all__ = []

class ShownDL(TfmdDL):
    "A `TfmdDL` of fields that knows how to draw them; `var`, `frame` say what of each"
    look: dict = {}     # `n_vars`, `y_vars`, `pair`, see `draw_fields`

    def new(self, *args, **kwargs):
        dl = super().new(*args, **kwargs)
        dl.look = self.look
        return dl

    def _look(self): return self.look
    def _pre_show_batch(self, b, max_n=9):
        x,y,its = super()._pre_show_batch(b, max_n=max_n)
        its.look = self._look()     # for the pictures
        return x,y,its

class FieldDL(ShownDL):
    "Takes whole batches out of `FieldItems`; with steps per item, just a `TfmdDL`"
    def __init__(self,
        dataset=None,   # `FieldItems`
        bs=20,          # Batch size
        num_workers=0,  # Processes; of use for files alone
        **kwargs        # Anything `TfmdDL` takes
    ):
        super().__init__(dataset, bs=bs, num_workers=num_workers, **kwargs)

    def _whole(self):
        "Whether nothing happens item by item"
        ds = self.dataset
        if not isinstance(ds, FieldItems): return False
        if not self.indexed or self.prebatched: return False
        if vars(self).keys() & {'create_item', 'create_batch', 'do_batch', 'retain'}: return False
        return not len(self.after_item.fs) and not len(self.before_batch.fs)

    def create_batches(self, samps):
        "Batches of the positions `samps`, each at once where that is possible"
        if not self._whole():
            yield from super().create_batches(samps)
            return
        for i in self.chunkify(samps): yield self.dataset.batch(torch.as_tensor(list(i)))

    def show_batch(self, b=None, max_n=4, ctxs=None, show=True, **kwargs):
        "Inputs and targets of a batch; `var`, `frame` say which"
        return super().show_batch(b, max_n=max_n, ctxs=ctxs, show=show, **kwargs)

    def show_results(self, b, out, max_n=4, ctxs=None, show=True, **kwargs):
        "Inputs, targets, predictions and errors; `var`, `frame` say which"
        return super().show_results(b, out, max_n=max_n, ctxs=ctxs, show=show, **kwargs)

    def _look(self):
        f = self.dataset.facts
        return dict(n_vars=f.n_vars, y_vars=len(f.y_scale[0]), pair=f.pair)

def _counted(n, what): return f'{n} {what}' if n == 1 else f'{n} {what}s'

class FieldLoaders(DataLoaders):
    "DataLoaders of fields; `test_dl` takes new fields as arrays or as the path of a file"
    def __repr__(self):
        if not self.loaders: return f'{type(self).__name__}: none'
        f = self.loaders[-1].dataset.facts
        ends = (f.t_in, f.n_vars),(f.t_out, len(f.y_scale[0]))
        seen,given = (f"{_counted(t, 'frame')} of {_counted(c, 'variable')}" for t,c in ends)
        if f.timed: seen += ' and a time'
        sides = zip(self.loaders, ('training', 'validation'))
        n = ' and '.join(f'{len(dl.dataset)} {o}' for dl,o in sides)
        grid = ' x '.join(map(str, f.grid))
        return (f'{type(self).__name__}: {n} items in batches of {self.loaders[0].bs} on {self.device}\n'
                f'{seen} to {given}, on {grid} points')

    def test_dl(self,
        test_items,         # Array (n,..), list of fields, path: on any grid, without `sub`; see `new_items`
        rm_type_tfms=None,  # fastai's, without a meaning here
        with_labels=False,  # Have they targets? Histories have them in their later frames
        **kwargs            # More for the loader
    ):
        "A loader of new fields without shuffling"
        items = new_items(test_items, self.valid.dataset.facts, with_labels)
        return self.valid.new(items, **{'shuffle': False, 'drop_last': False, **kwargs})

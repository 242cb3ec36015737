"Loaders of fields: whole batches at a time, from memory or, read item by item, from files"
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastrobust.systems.koopman.data.fielditems import FieldItems, new_items

__all__ = []

class FieldDL(TfmdDL):
    "A `TfmdDL` that takes whole batches out of `FieldItems`; with steps per item, just a `TfmdDL`"
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
        if show: kwargs = self._pictured() | kwargs
        return super().show_batch(b, max_n=max_n, ctxs=ctxs, show=show, **kwargs)

    def show_results(self, b, out, max_n=4, ctxs=None, show=True, **kwargs):
        "Inputs, targets, predictions and errors; `var`, `frame` say which"
        if show: kwargs = self._pictured() | kwargs
        return super().show_results(b, out, max_n=max_n, ctxs=ctxs, show=show, **kwargs)

    def _pictured(self):
        f = self.dataset.facts
        return dict(n_vars=f.n_vars, y_vars=len(f.y_scale[0]), pair=f.pair)

class FieldLoaders(DataLoaders):
    "DataLoaders of fields; `test_dl` takes new fields as arrays or as the path of a file"
    def test_dl(self,
        test_items,         # Array (n,..), list of fields, path: on any grid, without `sub`; see `new_items`
        rm_type_tfms=None,  # fastai's, without a meaning here
        with_labels=False,  # Have they targets? Histories have them in their later frames
        **kwargs            # More for the loader
    ):
        "A loader of new fields without shuffling"
        items = new_items(test_items, self.valid.dataset.facts, with_labels)
        return self.valid.new(items, **{'shuffle': False, 'drop_last': False, **kwargs})

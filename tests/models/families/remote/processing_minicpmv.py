"""A processor of that time: one conversation, images in the text, ragged lists out."""

import re

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin


class MiniCPMVProcessor(ProcessorMixin):
    attributes = ["tokenizer"]  # noqa: RUF012
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer=None, patch_size=16, query_num=2, **kwargs):
        super().__init__(tokenizer)
        self.patch_size = patch_size
        self.query_num = query_num

    def __call__(self, text, images=None, max_slice_nums=2, return_tensors=None):
        if images is not None:
            image_inputs = self._images(images, max_slice_nums)
        pieces = re.split(r"\(<image>\./</image>\)", text)
        slices, sizes = image_inputs  # unbound without images
        mark = "<image>" + "<unk>" * self.query_num + "</image>"
        whole = pieces[0] + "\n".join([mark] * len(slices)) + "".join(pieces[1:])
        ids = torch.tensor(self.tokenizer.encode(whole), dtype=torch.int32)
        first = torch.where(ids == self.tokenizer.im_start_id)[0] + 1
        last = torch.where(ids == self.tokenizer.im_end_id)[0]
        return BatchFeature(
            data={
                "input_ids": ids[None],
                "pixel_values": [slices],
                "tgt_sizes": [sizes],
                "image_bound": [torch.stack([first, last], dim=1)],
            }
        )

    def _images(self, images, most):
        patch = self.patch_size
        slices, sizes = [], []
        for image in images:
            wide = 2 if image.width > image.height else 1
            for across in (1, wide)[: most if wide > 1 else 1]:
                grid = (1, across)
                pixels = np.asarray(image.convert("RGB").resize((patch * across, patch)), dtype=np.float32) / 127.5 - 1
                pixels = torch.from_numpy(pixels).permute(2, 0, 1)
                slices.append(pixels)  # (3, patch, patch times patches)
                sizes.append(grid)
        return slices, torch.tensor(sizes, dtype=torch.int32)

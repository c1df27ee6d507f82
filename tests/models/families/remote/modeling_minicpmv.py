"""A model as transformers 4 allowed it: no post_init, one dictionary in, writes into embeddings in place."""

import numpy as np
import torch
from torch import nn
from transformers import Qwen2ForCausalLM, Qwen2PreTrainedModel
from transformers.modeling_utils import is_flash_attn_2_available

from .configuration_minicpm import MiniCPMVConfig

FLASH = is_flash_attn_2_available()


class Output:
    def __init__(self, last_hidden_state):
        self.last_hidden_state = last_hidden_state


class Vision(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.embed = nn.Linear(3 * patch * patch, width)
        self.layers = nn.ModuleList([nn.Linear(width, width)])
        self.register_buffer("position_ids", torch.arange(64).expand((1, -1)), persistent=False)

    def forward(self, patches):
        hidden = self.embed(patches)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden)) + self.position_ids[:, : hidden.shape[1], None] / 64
        return Output(hidden)


class Resampler(nn.Module):
    def __init__(self, queries, width, kv):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        self.kv_proj = nn.Linear(kv, width, bias=False)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True)
        table = np.sin(np.outer(np.arange(1, 65), np.arange(1, width + 1)) / 10).astype(np.float32)
        self.register_buffer("pos_embed", torch.from_numpy(table), persistent=False)  # easily lost

    def forward(self, x, tgt_sizes):
        x = self.kv_proj(x)
        key = x + self.pos_embed[: x.shape[1]].to(x.dtype)
        query = self.query.to(x.dtype).expand(x.shape[0], -1, -1)
        return self.attn(query, key, x)[0]


class MiniCPMVPreTrainedModel(Qwen2PreTrainedModel):
    config_class = MiniCPMVConfig


class MiniCPMV(MiniCPMVPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.llm = Qwen2ForCausalLM(config)
        self.vpm = Vision(config.vision_width, config.patch_size)
        self.resampler = Resampler(config.query_num, config.hidden_size, config.vision_width)
        # and no self.post_init()

    def get_input_embeddings(self):
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.llm.embed_tokens = value  # not where they are

    def get_vllm_embedding(self, data):
        if "vision_hidden_states" not in data:
            hidden = []
            for images, sizes in zip(data["pixel_values"], data["tgt_sizes"], strict=True):
                rows = []
                for image, size in zip(images, sizes, strict=True):
                    patch = self.config.patch_size
                    patches = image.reshape(3, patch, int(size.prod()), patch).permute(2, 0, 1, 3).flatten(1)
                    seen = self.vpm(patches[None].to(self.llm.dtype)).last_hidden_state
                    rows.append(self.resampler(seen, size[None]))
                hidden.append(torch.cat(rows) if rows else [])
            if not any(len(h) for h in hidden) and self.training:
                dummy = torch.zeros((1, 3, 224, 224))
                hidden = [self.resampler(self.vpm(dummy).last_hidden_state, None)] * len(hidden)  # does not even fit
        else:
            hidden = data["vision_hidden_states"]
        embedding = self.llm.model.embed_tokens(data["input_ids"])
        for i, features in enumerate(hidden):
            if len(features):
                bound = data["image_bound"][i]
                if len(bound):
                    index = torch.cat([torch.arange(a, b) for a, b in bound])
                    index = index[:, None].repeat(1, embedding.shape[-1])
                    embedding[i].scatter_(0, index, features.reshape(-1, features.shape[-1]).to(embedding.dtype))
                elif self.training:
                    embedding[i] += features[0].mean() * 0
        return embedding, hidden

    def forward(self, data, **kwargs):
        embedding, _ = self.get_vllm_embedding(data)
        return self.llm(input_ids=None, position_ids=data["position_ids"], inputs_embeds=embedding, **kwargs)

    def generate(self, input_ids=None, pixel_values=None, tokenizer=None, **kwargs):
        assert len(input_ids) == len(pixel_values)
        raise AssertionError("nobody here calls it with what it wants")

"""Structure of the paper's checkpoints' code, written anew for the tests: a configuration with a type of its own."""

from transformers import Qwen2Config


class MiniCPMVConfig(Qwen2Config):
    model_type = "minicpmv"

    def __init__(self, query_num=2, vision_width=32, patch_size=16, **kwargs):
        self.query_num = query_num
        self.vision_width = vision_width
        self.patch_size = patch_size
        super().__init__(**kwargs)

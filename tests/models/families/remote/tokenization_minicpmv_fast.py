"""A tokenizer that derives from a class under its old name, and has properties for the marks around images."""

from transformers.models.qwen2.tokenization_qwen2_fast import Qwen2TokenizerFast


class MiniCPMVTokenizerFast(Qwen2TokenizerFast):
    @property
    def im_start_id(self):
        return self.convert_tokens_to_ids("<image>")

    @property
    def im_end_id(self):
        return self.convert_tokens_to_ids("</image>")

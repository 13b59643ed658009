"""Text to pieces with character offsets. The only importer of `tokenizers`.

text_tokenizer.py  the tokenizer of a bundle
request_rows.py    rows of requests, with and without their context
scripts.py         scripts of letters, and whether a model can read a text
trial.py           tries the tokenizer of a bundle before it serves
"""

from palm_serve.tokenization.text_tokenizer import TextTokenizer, bare_tokenizer_json, find_unknown_id

__all__ = ["TextTokenizer", "bare_tokenizer_json", "find_unknown_id"]

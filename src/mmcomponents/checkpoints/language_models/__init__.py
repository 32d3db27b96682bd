"""Language models that were trained without this library, made ready for images.

GGUF file ── convert_gguf ──► folder ── read ──► spec, weights, tokenizer ── add_chat_tokens ──► the same with more rows
"""

"""Text -> tokenizer -> blocks, in several processes: the work behind tools/prepare_data.py."""

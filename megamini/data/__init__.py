"""Text to batches: corpus -> tokenizer -> blocks -> masking -> batches."""

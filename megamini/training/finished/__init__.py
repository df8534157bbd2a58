"""What a run leaves behind: its weights, its model card, what it needs to be exported anywhere."""

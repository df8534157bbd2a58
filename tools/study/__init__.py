"""The study of five languages: its steps, its ledgers and its pages."""

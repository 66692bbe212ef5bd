"""The fine-tuning job's stand-in: trains a tiny base model and an adapter, and leaves them on the file share."""

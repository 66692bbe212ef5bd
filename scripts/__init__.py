"""The command `inferops`: one module per noun, verbs in cli.py."""

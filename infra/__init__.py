"""The infrastructure: the template in provision/, and its local stand-in in emulator/."""

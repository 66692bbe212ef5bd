"""The stand-in: Azure on one machine, met only at a URL. Imports nothing of scripts/ or inference/."""

"""The parts of scripts/verify/real_model.py: llama.cpp, texts, and what is compared."""

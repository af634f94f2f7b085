"""Measured figures that the model is held against, in tokens per second, with their sources. Only data."""

# benches/runs/card-nvidia-h100-80gb-hbm3.md; 8B Q4_K_M and Q8_0 by card-h100-steps.md. Prompts of 128, 64 new tokens.
H100 = {
    ("8B q4_k_m", "decode 1"): 402,
    ("8B q4_k_m", "decode 8"): 2112,
    ("8B q4_k_m", "decode 32"): 6431,
    ("8B q4_k_m", "prefill 512"): 16569,
    ("8B bf16", "decode 1"): 164,
    ("8B bf16", "decode 8"): 1272,
    ("8B bf16", "decode 32"): 4762,
    ("8B bf16", "prefill 512"): 38925,
    ("8B q8_0", "decode 1"): 284,
    ("8B q8_0", "decode 32"): 5951,
    ("8B q8_0", "prefill 512"): 15676,
    ("0.6B q4_k_m", "decode 1"): 1227,
    ("0.6B q4_k_m", "decode 8"): 7493,
    ("0.6B q4_k_m", "decode 32"): 15354,
    ("0.6B q4_k_m", "prefill 512"): 81731,
    ("0.6B bf16", "decode 1"): 884,
    ("0.6B bf16", "decode 8"): 6648,
    ("0.6B bf16", "decode 32"): 20938,
    ("0.6B bf16", "prefill 512"): 177909,
}
# Tokens in the cache in the middle of such a run.
CONTEXT = 160
# llama.cpp, 8B Q4_K_M, one sequence: published for the GeForce cards; on the H100 measured beside serin, 252 to 266.
PEER = {"RTX 4090": 131, "RTX 5090": 222, "H100": 259}

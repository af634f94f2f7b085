// All kernels as one host program; each file keeps its insides in a namespace of its own.
#include "../attention_decode.cu"
#include "../attention_exact.cu"
#include "../attention_prefill.cu"
#include "../norm.cu"
#include "../rope.cu"
#include "../rows.cu"

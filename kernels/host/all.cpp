// All kernels as one host program; each file keeps its insides in a namespace of its own.
#include "../norm.cu"
#include "../rope.cu"
#include "../rows.cu"

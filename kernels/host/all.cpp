// All kernels as one host program; each file keeps its insides in a namespace of its own.
#include "../embed.cu"
#include "../product_dense.cu"
#include "../product_quant.cu"
#include "../product_tiles.cu"

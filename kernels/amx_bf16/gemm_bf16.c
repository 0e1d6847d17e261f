// arch: x86_64
// flags: -mamx-tile -mamx-bf16
// TDPBF16PS with tiles loaded from packed operands.
#define AB_ISA "amx_bf16"
#define AB_FEATURES "amx_tile amx_bf16"
#define TYPE "bf16"
#define LOOP "tdpbf16ps:4"
#define IN AB_BF16
#define WHOLE 0
#define OPS 16384
#define LOW 0
#define TDP _tile_dpbf16ps

#include "../amx_gemm.h"

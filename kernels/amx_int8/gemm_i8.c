// arch: x86_64
// flags: -mamx-tile -mamx-int8
// TDPBSSD with tiles loaded from packed operands.
#define AB_ISA "amx_int8"
#define AB_FEATURES "amx_tile amx_int8"
#define TYPE "i8"
#define LOOP "tdpbssd:4"
#define IN AB_I8
#define WHOLE 1
#define OPS 32768
#define LOW -127
#define TDP _tile_dpbssd

#include "../amx_gemm.h"
